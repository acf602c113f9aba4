package bolt

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"os"

	"github.com/cameronraysmith/fleet/coordinator/internal/store"
)

// The layout of bbolt's file, format 2 of go.etcd.io/bbolt 1.x. All numbers
// are in the machine's byte order.
const (
	pageHeader  = 16 // id 8, flags 2, count 2, overflow 4
	elementLen  = 16 // leaf: flags, pos, ksize, vsize; branch: pos, ksize, id 8
	metaLen     = 64 // magic, version, page size, flags 4 each; root, sequence, freelist, high-water mark, txid, checksum
	metaSummed  = metaLen - 8
	bucketLen   = 16 // root, sequence
	boltMagic   = 0xED0CDAED
	boltVersion = 2
	flagBranch  = 0x01
	flagLeaf    = 0x02
	flagMeta    = 0x04
	flagBucket  = 0x01
	// maxDepth of a tree whose pages hold two keys at least.
	maxDepth = 64
	// maxPageBytes bounds one page with its overflow: bbolt splits a page so that
	// it holds few of the largest values.
	maxPageBytes = 16 << 20
)

var native = binary.NativeEndian

// metaPage is a valid meta page.
type metaPage struct {
	slot     int64
	pageSize int64
	root     uint64
	pages    uint64 // the high-water mark: pages from here on are not in use
	txid     uint64
}

// pages reads the pages of a file without bbolt, which trusts them: a damaged
// one makes it panic, read outside of its mapping, or go round in a circle
// until the stack is full, which nothing can contain. Each page is visited
// once, so that the time is bounded by the file's size.
type pages struct {
	r    io.ReaderAt
	meta metaPage
	seen []uint64 // one bit for each page
}

// readMetas returns the valid meta pages of a file, the newer one first, and
// which slots hold none.
func readMetas(r io.ReaderAt) (metas []metaPage, lost []int64, err error) {
	first, ok := readMeta(r, 0, 0)
	if !ok {
		// Where the second one lies depends on the size that the first would say.
		for size := int64(1 << 10); size <= 64<<10; size <<= 1 {
			if m, ok := readMeta(r, 1, size); ok {
				return []metaPage{m}, []int64{0}, nil
			}
		}
		return nil, nil, damage("neither of its meta pages is whole")
	}
	second, ok := readMeta(r, 1, first.pageSize)
	switch {
	case !ok:
		return []metaPage{first}, []int64{1}, nil
	case second.txid > first.txid:
		return []metaPage{second, first}, nil, nil
	}
	return []metaPage{first, second}, nil, nil
}

// readMeta reads the meta page in a slot; size 0 is not known yet.
func readMeta(r io.ReaderAt, slot, size int64) (m metaPage, ok bool) {
	b := make([]byte, pageHeader+metaLen)
	if _, err := r.ReadAt(b, slot*size); err != nil {
		return m, false
	}
	if native.Uint64(b) != uint64(slot) || native.Uint16(b[8:]) != flagMeta { //nolint:gosec // 0 or 1.
		return m, false
	}
	b = b[pageHeader:]
	m = metaPage{
		slot: slot, pageSize: int64(native.Uint32(b[8:])), root: native.Uint64(b[16:]), pages: native.Uint64(b[40:]), txid: native.Uint64(b[48:]),
	}
	ok = native.Uint32(b) == boltMagic && native.Uint32(b[4:]) == boltVersion && native.Uint64(b[metaSummed:]) == metaSum(b) &&
		m.pageSize >= 1<<10 && m.pageSize <= 64<<10 && (size == 0 || m.pageSize == size) && m.pages < 1<<40
	return m, ok
}

func metaSum(meta []byte) uint64 {
	h := fnv.New64a()
	_, _ = h.Write(meta[:metaSummed]) // never fails
	return h.Sum64()
}

// damage is store.ErrCorrupt with what is wrong and what to do.
func damage(format string, args ...any) error {
	return fmt.Errorf("%w: %s: %s", store.ErrCorrupt, fmt.Sprintf(format, args...), hintCorrupt)
}

// leaf is told of each entry of a tree; what it gets is valid during the call.
type leaf func(flags uint32, key, value []byte) error

// walk goes through the tree below a page, whose keys are at least from and,
// where to is not nil, below to.
func (p *pages) walk(id uint64, depth int, from, to []byte, f leaf) error {
	if depth > maxDepth {
		return damage("its tree is deeper than %d pages", maxDepth)
	}
	b, err := p.page(id)
	if err != nil {
		return err
	}
	return p.elements(id, b, depth, from, to, f)
}

// page reads a page with its overflow.
func (p *pages) page(id uint64) ([]byte, error) {
	if id < 2 || id >= p.meta.pages {
		return nil, damage("page %d is named, there are %d", id, p.meta.pages)
	}
	var head [pageHeader]byte
	at := int64(id) * p.meta.pageSize //nolint:gosec // Below 2^40 pages.
	if _, err := p.r.ReadAt(head[:], at); err != nil {
		return nil, fmt.Errorf("reading page %d: %w", id, err)
	}
	count := uint64(native.Uint32(head[12:])) + 1
	if native.Uint64(head[:]) != id || count > p.meta.pages-id || int64(count)*p.meta.pageSize > maxPageBytes { //nolint:gosec // Below 2^33.
		return nil, damage("page %d has a wrong head", id)
	}
	for n := id; n < id+count; n++ {
		if p.seen[n/64]&(1<<(n%64)) != 0 {
			return nil, damage("page %d is used twice", n)
		}
		p.seen[n/64] |= 1 << (n % 64)
	}
	b := make([]byte, int64(count)*p.meta.pageSize) //nolint:gosec // At most maxPageBytes.
	if _, err := p.r.ReadAt(b, at); err != nil {
		return nil, fmt.Errorf("reading page %d: %w", id, err)
	}
	return b, nil
}

// elements goes through a page, which may lie within a value.
func (p *pages) elements(id uint64, b []byte, depth int, from, to []byte, f leaf) error {
	if len(b) < pageHeader {
		return damage("page %d is cut", id)
	}
	flags, count := native.Uint16(b[8:]), int(native.Uint16(b[10:]))
	if flags != flagLeaf && flags != flagBranch || flags == flagBranch && count == 0 {
		return damage("page %d has the type %#x and %d entries", id, flags, count)
	}
	if count == 0 && depth > 0 {
		return damage("page %d is empty", id)
	}
	// bbolt packs keys and values behind the elements without a gap, and takes as
	// many pages as that needs: any other length or number shows.
	end := pageHeader + elementLen*count
	var key []byte
	for i := range count {
		at := pageHeader + elementLen*i
		if at+elementLen > len(b) {
			return damage("page %d ends within its entries", id)
		}
		e := element(b[at:], flags)
		if at+int(e.pos) != end || int64(end)+int64(e.ksize)+int64(e.vsize) > int64(len(b)) {
			return damage("entry %d of page %d lies outside", i, id)
		}
		last := key
		key = b[end : end+int(e.ksize)]
		value := b[end+int(e.ksize) : end+int(e.ksize)+int(e.vsize)]
		end += int(e.ksize) + int(e.vsize)
		if i > 0 && bytes.Compare(key, last) <= 0 || bytes.Compare(key, from) < 0 || to != nil && bytes.Compare(key, to) >= 0 {
			return damage("entry %d of page %d is out of order", i, id)
		}
		if flags == flagLeaf {
			if err := f(e.flags, key, value); err != nil {
				return err
			}
			continue
		}
		below := to
		if i+1 < count {
			next, err := keyOf(b, i+1, id)
			if err != nil {
				return err
			}
			below = next
		}
		if err := p.walk(e.child, depth+1, key, below, f); err != nil {
			return err
		}
	}
	if id != 0 && (int64(end)+p.meta.pageSize-1)/p.meta.pageSize*p.meta.pageSize != int64(len(b)) {
		return damage("page %d has %d bytes in %d", id, end, len(b))
	}
	return nil
}

// elementHead is what a page says of one entry.
type elementHead struct {
	flags, pos, ksize, vsize uint32
	child                    uint64
}

func element(b []byte, flags uint16) elementHead {
	if flags == flagBranch {
		return elementHead{pos: native.Uint32(b), ksize: native.Uint32(b[4:]), child: native.Uint64(b[8:])}
	}
	return elementHead{flags: native.Uint32(b), pos: native.Uint32(b[4:]), ksize: native.Uint32(b[8:]), vsize: native.Uint32(b[12:])}
}

// keyOf returns the key of entry i of a branch page.
func keyOf(b []byte, i int, id uint64) ([]byte, error) {
	at := pageHeader + elementLen*i
	if at+elementLen > len(b) {
		return nil, damage("page %d ends within its entries", id)
	}
	e := element(b[at:], flagBranch)
	from := int64(at) + int64(e.pos)
	if from+int64(e.ksize) > int64(len(b)) {
		return nil, damage("entry %d of page %d lies outside", i, id)
	}
	return b[from : from+int64(e.ksize)], nil
}

// buckets goes through the root of the file and returns where each bucket
// begins: a page, or one within its value.
func (p *pages) buckets() (map[string]bucketAt, error) {
	out := map[string]bucketAt{}
	err := p.walk(p.meta.root, 0, nil, nil, func(flags uint32, key, value []byte) error {
		if flags != flagBucket || len(value) < bucketLen || native.Uint64(value[8:]) != 0 {
			return damage("bucket %q is malformed", key)
		}
		at := bucketAt{root: native.Uint64(value)}
		if at.root == 0 {
			at.inline = bytes.Clone(value[bucketLen:])
		} else if len(value) != bucketLen {
			return damage("bucket %q is malformed", key)
		}
		out[string(key)] = at
		return nil
	})
	return out, err
}

type bucketAt struct {
	root   uint64
	inline []byte
}

// entries goes through one bucket.
func (p *pages) entries(at bucketAt, f leaf) error {
	whole := func(flags uint32, key, value []byte) error {
		if flags != 0 {
			return damage("entry %q is of a wrong kind", key)
		}
		return f(flags, key, value)
	}
	if at.root == 0 {
		return p.elements(0, at.inline, 0, nil, nil, whole)
	}
	return p.walk(at.root, 0, nil, nil, whole)
}

// newPages begins a walk by one meta page.
func newPages(r io.ReaderAt, m metaPage) *pages {
	return &pages{r: r, meta: m, seen: make([]uint64, m.pages/64+1)}
}

// shorter refuses a file that ends before its meta page says.
func (p *pages) shorter(f *os.File) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if want := int64(p.meta.pages) * p.meta.pageSize; fi.Size() < want { //nolint:gosec // Below 2^40 pages.
		return damage("it is %d bytes long instead of %d", fi.Size(), want)
	}
	return nil
}
