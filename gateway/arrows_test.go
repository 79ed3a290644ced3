package gateway_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	module = "lsmtpd"
	top    = ".."
	rig    = "gateway/internal" // what tests and `make run` are made with: no product code imports it
)

// arrows says for each package which others of ours it may import. A package that is not drawn here is a fault, too.
var arrows = map[string][]string{
	"routes/address": {},
	"routes/config":  {"routes/address"},
	"routes":         {"routes/address", "routes/config"},
	"routes/reload":  {"routes", "routes/config"},

	"gateway/listen":  {},
	"gateway/memory":  {},
	"gateway/smtp":    {"routes/address", "gateway/memory"},
	"gateway/mail":    {"routes/address", "gateway/memory"},
	"gateway/publish": {"gateway/mail", "gateway/memory", "routes/config"},
	"gateway/spool":   {"gateway/mail", "gateway/memory"}, // memory: a mail read back is held like one taken in
	"gateway": {"routes", "routes/address", "routes/config",
		"gateway/listen", "gateway/memory", "gateway/smtp", "gateway/mail", "gateway/publish", "gateway/spool"},
	"gateway/admin": {"gateway", "gateway/mail", "gateway/spool", "routes", "routes/config", "routes/reload"},
	"gateway/cmd/lsmtpd": {"routes", "routes/address", "routes/config", "routes/reload", "gateway", "gateway/listen", "gateway/memory",
		"gateway/smtp", "gateway/mail", "gateway/publish", "gateway/spool", "gateway/admin"},
}

func TestImports_point_the_way_they_are_drawn(t *testing.T) {
	for _, p := range packages(t) {
		allowed, drawn := arrows[p.dir]
		inRig := strings.HasPrefix(p.dir, rig+"/")
		if !drawn && !inRig {
			t.Errorf("%s is not in the drawing: give it its arrows here", p.dir)
			continue
		}
		for dir, file := range p.imports {
			switch {
			case inRig: // builds on whatever it likes
			case strings.HasPrefix(dir, rig+"/"):
				t.Errorf("%s imports %s, which is for tests", file, dir)
			case strings.HasPrefix(p.dir, "routes") && strings.HasPrefix(dir, "gateway"):
				t.Errorf("%s imports %s: the wing that reads files does not know the one that opens sockets", file, dir)
			case !slices.Contains(allowed, dir):
				t.Errorf("%s imports %s: no arrow goes from %s there", file, dir, p.dir)
			}
		}
	}
}

func TestThe_drawing_has_no_circle(t *testing.T) {
	var from func(dir string, way []string)
	from = func(dir string, way []string) {
		if slices.Contains(way, dir) {
			t.Fatalf("a circle: %s", strings.Join(append(way, dir), " → "))
		}
		for _, to := range arrows[dir] {
			from(to, append(slices.Clone(way), dir))
		}
	}
	for dir := range arrows {
		from(dir, nil)
	}
}

func TestEvery_package_says_what_it_does(t *testing.T) {
	for _, p := range packages(t) {
		begin := "Package " + p.name + " "
		if p.name == "main" {
			begin = "Command " + path.Base(p.dir) + " "
		}
		if len(p.docs) != 1 {
			t.Errorf("%s has %d package docs, want one", p.dir, len(p.docs))
			continue
		}
		if !strings.HasPrefix(p.docs[0], begin) {
			t.Errorf("the package doc of %s begins %.40q, not %q", p.dir, p.docs[0], begin)
		}
	}
}

func TestThe_top_level_is_kept_clear(t *testing.T) {
	allowed := []string{"gateway", "routes", "examples", "lsmtpd.yaml", "go.mod", "go.sum", "Makefile", "README.md"}
	ignored, err := os.ReadFile(filepath.Join(top, ".gitignore"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(ignored)) {
		allowed = append(allowed, strings.Trim(strings.TrimSpace(line), "/"))
	}
	entries, err := os.ReadDir(top)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") && !slices.Contains(allowed, e.Name()) {
			t.Errorf("%s lies at the top: it belongs under gateway/, routes/ or examples/", e.Name())
		}
	}
}

// pkg is a directory with Go files that are not tests.
type pkg struct {
	dir, name string
	docs      []string
	imports   map[string]string // directories of ours, and a file that imports each
}

// packages reads both wings here and now: what `go list` tells is not seen by the test cache. A directory with a module of
// its own, and one of which only tests are built, are no rooms of the house.
func packages(t *testing.T) []*pkg {
	t.Helper()
	byDir := map[string]*pkg{}
	for _, wing := range []string{"routes", "gateway"} {
		err := filepath.WalkDir(filepath.Join(top, wing), func(file string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() {
				return skip(file, d)
			}
			if !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
				return nil
			}
			return readFile(file, byDir)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	all := make([]*pkg, 0, len(byDir))
	for _, p := range byDir {
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b *pkg) int { return strings.Compare(a.dir, b.dir) })
	return all
}

func skip(dir string, d fs.DirEntry) error {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	if err == nil || d.Name() == "testdata" {
		return fs.SkipDir
	}
	return nil
}

func readFile(file string, byDir map[string]*pkg) error {
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly|parser.ParseComments)
	if err != nil {
		return err
	}
	name, err := filepath.Rel(top, file)
	if err != nil {
		return err
	}
	name = filepath.ToSlash(name)
	p := byDir[path.Dir(name)]
	if p == nil {
		p = &pkg{dir: path.Dir(name), name: f.Name.Name, imports: map[string]string{}}
		byDir[p.dir] = p
	}
	if f.Doc != nil {
		p.docs = append(p.docs, f.Doc.Text())
	}
	for _, spec := range f.Imports {
		if dir, ours := importedDir(spec); ours {
			p.imports[dir] = name
		}
	}
	return nil
}

func importedDir(spec *ast.ImportSpec) (dir string, ours bool) {
	imported, err := strconv.Unquote(spec.Path.Value)
	if err != nil {
		return "", false
	}
	return strings.CutPrefix(imported, module+"/")
}
