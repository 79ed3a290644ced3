package config

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

const (
	maxExpansion = 1 << 20 // nodes that the aliases of a file may stand for
	maxDepth     = 64      // of lists and mappings inside each other
)

// parse reads the one document of a file. It returns nil where it reported a fault.
func (d *decoder) parse(content []byte) *yaml.Node {
	if line, col, wrong := foreign(content); wrong != "" {
		d.report(Fault{Place: Place{d.file, line, col}, Message: wrong})
		return nil
	}
	var first, second yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(content))
	err := dec.Decode(&first)
	if errors.Is(err, io.EOF) || err == nil && first.Content[0].Tag == "!!null" {
		d.report(Fault{Place: Place{d.file, 1, 1}, Message: "is empty"})
		return nil
	}
	if err == nil {
		err = dec.Decode(&second)
	}
	switch {
	case err == nil:
		d.fault(&second, "", "a second document begins here: one file is one document, take the --- out")
		return nil
	case !errors.Is(err, io.EOF):
		d.report(Fault{Place: Place{d.file, errorLine(content), 1}, Message: syntaxMessage(err)})
		return nil
	}
	if bytes.IndexByte(content, '&') >= 0 {
		x := expansion{sizes: map[*yaml.Node]int{}}
		if x.size(&first, 0); x.wrong != "" {
			d.fault(x.at, "", x.wrong)
			return nil
		}
	}
	return first.Content[0]
}

// foreign finds octets that are not text, which yaml.v3 refuses without saying where.
func foreign(content []byte) (line, col int, wrong string) {
	line, col = 1, 1
	for i := 0; i < len(content); col++ {
		c := content[i]
		if c >= ' ' && c < 0x7f {
			i++
			continue
		}
		r, size := utf8.DecodeRune(content[i:])
		switch {
		case r == '\n':
			line, col = line+1, 0
		case r == '\t' || r == '\r' || r == 0x85:
		case r == utf8.RuneError && size == 1:
			return line, col, "is not UTF-8 here"
		case r < ' ' || r >= 0x7f && r < 0xa0 || r == 0xfffe || r == 0xffff:
			return line, col, "holds a control character here"
		}
		i += size
	}
	return 0, 0, ""
}

// errorLine returns the line that the parser was reading as it gave up. What yaml.v3 says is the line where the enclosing
// list or mapping begins, or nothing; so the file is read again, a line at a time.
func errorLine(content []byte) int {
	lines := &lineReader{rest: content}
	dec := yaml.NewDecoder(lines)
	for {
		var n yaml.Node
		if err := dec.Decode(&n); err != nil {
			return max(lines.read, 1)
		}
	}
}

type lineReader struct {
	rest []byte
	read int // lines
}

func (r *lineReader) Read(b []byte) (int, error) {
	if len(r.rest) == 0 {
		return 0, io.EOF
	}
	end := bytes.IndexByte(r.rest, '\n') + 1
	if end == 0 {
		end = len(r.rest)
	}
	n := copy(b, r.rest[:end])
	if n == end {
		r.read++
	}
	r.rest = r.rest[n:]
	return n, nil
}

// syntaxMessage says a parser's error in its own words, without the line that it gets wrong.
func syntaxMessage(err error) string {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	if rest, found := strings.CutPrefix(text, "line "); found {
		if _, rest, found = strings.Cut(rest, ": "); found {
			text = rest
		}
	}
	return "is not YAML here, or just above: " + text
}

// expansion counts the nodes that a document has once its aliases are replaced.
type expansion struct {
	sizes map[*yaml.Node]int // of what has an anchor; 0 while it is being counted
	extra int                // what aliases add
	at    *yaml.Node
	wrong string
}

func (x *expansion) size(n *yaml.Node, depth int) int {
	if x.wrong != "" {
		return 0
	}
	if depth > maxDepth {
		x.at, x.wrong = n, "lists and mappings too deep inside each other"
		return 0
	}
	if n.Kind == yaml.AliasNode {
		size, known := x.sizes[n.Alias]
		if known && size == 0 {
			x.at, x.wrong = n, "*"+n.Value+" stands for something that holds it"
		}
		if x.extra += size; x.extra > maxExpansion {
			x.at, x.wrong = n, "aliases stand for too much: over a million values"
		}
		return size
	}
	if n.Anchor != "" {
		x.sizes[n] = 0
	}
	size := 1
	for _, child := range n.Content {
		size += x.size(child, depth+1)
	}
	if n.Anchor != "" {
		x.sizes[n] = size
	}
	return size
}
