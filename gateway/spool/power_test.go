package spool

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
)

// disk is a directory in memory that forgets, when the power fails, what no fsync has made sure of.
type disk struct {
	mu      sync.Mutex
	names   map[string]*inode
	durable map[string]*inode // names as of the last sync
	slow    *rand.Rand        // syncs take their time, so that others come between
}

type inode struct {
	octets []byte
	synced int // octets that an fsync has made sure of
}

func newDisk(seed uint64) *disk {
	return &disk{names: map[string]*inode{}, durable: map[string]*inode{}, slow: rand.New(rand.NewPCG(seed, 1))}
}

// afterPowerFailure returns what is found then. Of the names that no sync has made sure of, and of the octets, any may be there.
func (d *disk) afterPowerFailure(random *rand.Rand) *disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	found := maps.Clone(d.durable)
	for name, node := range d.names {
		if found[name] != node && random.IntN(2) == 0 {
			found[name] = node
		}
	}
	for name := range d.durable {
		if d.names[name] == nil && random.IntN(2) == 0 {
			delete(found, name)
		}
	}
	left := newDisk(random.Uint64())
	for name, node := range found {
		kept := node.synced + random.IntN(len(node.octets)-node.synced+1)
		copied := &inode{octets: bytes.Clone(node.octets[:kept]), synced: kept}
		left.names[name], left.durable[name] = copied, copied
	}
	return left
}

func (d *disk) pause() {
	d.mu.Lock()
	n := d.slow.IntN(3)
	d.mu.Unlock()
	time.Sleep(time.Duration(n) * time.Millisecond)
}

func (d *disk) create() (file, error) { return &diskFile{disk: d, inode: &inode{}}, nil }

func (d *disk) open(name string) (source, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	node := d.names[name]
	if node == nil {
		return nil, fs.ErrNotExist
	}
	return diskSource{bytes.NewReader(node.octets)}, nil
}

func (d *disk) remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.names, name)
	return nil
}

// sync makes sure of the names that are there when it begins.
func (d *disk) sync() error {
	d.mu.Lock()
	names := maps.Clone(d.names)
	d.mu.Unlock()
	d.pause()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.durable = names
	return nil
}

func (d *disk) list(each func(string, bool) bool) error {
	d.mu.Lock()
	names := maps.Clone(d.names)
	d.mu.Unlock()
	for name := range names {
		if !each(name, true) {
			break
		}
	}
	return nil
}

func (d *disk) leftover(string) bool               { return false }
func (d *disk) placed() error                      { return nil }
func (d *disk) free() (int64, error)               { return 1 << 40, nil }
func (d *disk) setAside(name, reason string) error { return fmt.Errorf("%s: %s", name, reason) }
func (d *disk) aside(func(BadEntry) bool) error    { return nil }
func (d *disk) unmake()                            {}
func (d *disk) close() error                       { return nil }

type diskFile struct {
	*disk
	*inode
}

func (f *diskFile) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.octets = append(f.octets, b...)
	return len(b), nil
}

func (f *diskFile) WriteAt(b []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.synced > int(off) {
		f.synced = int(off)
	}
	return copy(f.octets[off:], b), nil
}

// flush makes sure of nothing: what it wrote may be in the disk's own cache.
func (f *diskFile) flush(int64, int64) error { return nil }

func (f *diskFile) Sync() error {
	f.mu.Lock()
	n := len(f.octets)
	f.mu.Unlock()
	f.pause()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.synced = n
	return nil
}

func (f *diskFile) link(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.names[name] = f.inode
	return nil
}

func (f *diskFile) replace(name string) error { return f.link(name) }
func (f *diskFile) Close() error              { return nil }

type diskSource struct{ *bytes.Reader }

func (s diskSource) size() int64         { return s.Size() }
func (s diskSource) modified() time.Time { return time.Time{} }
func (s diskSource) Close() error        { return nil }

// What the page cache loses no kill of a process shows: here it is lost at every call in turn, with writers side by side.
func TestNo_promise_is_broken_wherever_the_power_fails(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 2))
	for round, at := 0, 1; round < 5; at++ {
		synctest.Test(t, func(t *testing.T) {
			d := newDisk(random.Uint64())
			a := &accounts{owed: map[uuid.UUID]bool{}}
			var left *disk
			var promised map[uuid.UUID]bool
			power := &stepped{directory: d, at: at, dies: true, err: errDead, died: func() {
				before := a.copy()
				left, promised = d.afterPowerFailure(random), a.copy()
				// Others go on meanwhile: what they were promised, or had removed, just then is on neither side of it.
				maps.DeleteFunc(promised, func(id uuid.UUID, owed bool) bool { was, known := before[id]; return !known || was != owed })
			}}
			s := start(Options{Dir: "in memory"}, power)
			work(t, s, a)
			_ = s.Close()
			if left == nil { // it came to its end before
				round, at = round+1, 0
				left, promised = d.afterPowerFailure(random), a.copy()
			}
			again := start(Options{Dir: "in memory"}, left)
			(&accounts{owed: promised}).check(t, again, fmt.Sprintf("call %d of %v", at, power.calls))
			mustClose(t, again)
		})
	}
}
