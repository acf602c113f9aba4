package packaging

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"
)

// pkg is what a deb or rpm says and brings.
type pkg struct {
	name, version, arch string
	// scripts by the names of deb.
	scripts map[string]string
	// files by their path: mode, and the SHA-256 of what is in them.
	files map[string]packed
	// conffiles are kept when they were changed by hand.
	conffiles []string
}

type packed struct {
	mode os.FileMode
	sum  string
	data []byte // of a deb
}

// readDeb reads a deb: an ar with two tars.
func readDeb(file string) (p pkg, err error) {
	data, err := os.ReadFile(file) //nolint:gosec // Of a test.
	if err != nil {
		return p, err
	}
	rest, ok := bytes.CutPrefix(data, []byte("!<arch>\n"))
	if !ok {
		return p, errors.New("no ar")
	}
	p.scripts, p.files = map[string]string{}, map[string]packed{}
	for len(rest) >= 60 {
		name := strings.TrimRight(string(rest[:16]), " /")
		size, err := strconv.Atoi(strings.TrimSpace(string(rest[48:58])))
		if err != nil || 60+size > len(rest) {
			return p, fmt.Errorf("%s: a size of %q", name, rest[48:58])
		}
		member := rest[60 : 60+size]
		rest = rest[min(60+size+size%2, len(rest)):]
		switch name {
		case "debian-binary":
		case "control.tar.gz":
			err = eachFile(member, p.control)
		case "data.tar.gz":
			err = eachFile(member, func(h *tar.Header, data []byte) {
				sum := sha256.Sum256(data)
				p.files[path.Clean("/"+h.Name)] = packed{h.FileInfo().Mode(), hex.EncodeToString(sum[:]), data}
			})
		default:
			err = errors.New("a member that a deb has not")
		}
		if err != nil {
			return p, fmt.Errorf("%s: %w", name, err)
		}
	}
	control := p.scripts["control"]
	delete(p.scripts, "control")
	for line := range strings.Lines(control) {
		field, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch field {
		case "Package":
			p.name = value
		case "Version":
			p.version = value
		case "Architecture":
			p.arch = value
		}
	}
	p.conffiles = strings.Fields(p.scripts["conffiles"])
	delete(p.scripts, "conffiles")
	delete(p.scripts, "md5sums")
	return p, nil
}

func (p *pkg) control(h *tar.Header, data []byte) {
	if h.Typeflag == tar.TypeReg {
		p.scripts[path.Base(h.Name)] = string(data)
	}
}

func eachFile(tgz []byte, do func(*tar.Header, []byte)) error {
	z, err := gzip.NewReader(bytes.NewReader(tgz))
	if err != nil {
		return err
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		do(h, data)
	}
}

// Tags of an rpm's header, of those that are read.
const (
	rpmName, rpmVersion, rpmArch                    = 1000, 1001, 1022
	rpmPostIn, rpmPreUn, rpmPostUn                  = 1024, 1025, 1026
	rpmModes, rpmDigests, rpmFlags                  = 1030, 1035, 1037
	rpmDirIndexes, rpmBaseNames, rpmDirNames        = 1116, 1117, 1118
	rpmConfig                                uint32 = 1
)

// readRPM reads an rpm's header, which names its files with their digests.
func readRPM(file string) (p pkg, err error) {
	data, err := os.ReadFile(file) //nolint:gosec // Of a test.
	if err != nil {
		return p, err
	}
	if len(data) < 96 || !bytes.HasPrefix(data, []byte{0xed, 0xab, 0xee, 0xdb}) {
		return p, errors.New("no rpm")
	}
	_, size, err := rpmHeader(data[96:])
	if err != nil {
		return p, fmt.Errorf("signature: %w", err)
	}
	tags, _, err := rpmHeader(data[96+(size+7)/8*8:])
	if err != nil {
		return p, fmt.Errorf("header: %w", err)
	}
	p = pkg{name: tags.text(rpmName), version: tags.text(rpmVersion), arch: tags.text(rpmArch), scripts: map[string]string{}, files: map[string]packed{}}
	for tag, name := range map[uint32]string{rpmPostIn: "postinst", rpmPreUn: "prerm", rpmPostUn: "postrm"} {
		if s := tags.text(tag); s != "" {
			p.scripts[name] = s
		}
	}
	bases, dirs, digests := tags.texts(rpmBaseNames), tags.texts(rpmDirNames), tags.texts(rpmDigests)
	for i, base := range bases {
		full := path.Join(dirs[binary.BigEndian.Uint32(tags[rpmDirIndexes].data[4*i:])], base)
		unix := binary.BigEndian.Uint16(tags[rpmModes].data[2*i:])
		mode := os.FileMode(unix & 0o777)
		if unix&0o170000 == 0o040000 {
			mode |= os.ModeDir
		}
		p.files[full] = packed{mode: mode, sum: digests[i]}
		if binary.BigEndian.Uint32(tags[rpmFlags].data[4*i:])&rpmConfig != 0 {
			p.conffiles = append(p.conffiles, full)
		}
	}
	return p, nil
}

type rpmTags map[uint32]struct {
	data  []byte
	count uint32
}

// rpmHeader reads one header and says how long it is.
func rpmHeader(b []byte) (rpmTags, int, error) {
	if len(b) < 16 || !bytes.HasPrefix(b, []byte{0x8e, 0xad, 0xe8, 1}) {
		return nil, 0, errors.New("no header of an rpm")
	}
	n, size := int(binary.BigEndian.Uint32(b[8:])), int(binary.BigEndian.Uint32(b[12:]))
	end := 16 + 16*n + size
	if n > 1000 || size > 1<<24 || len(b) < end {
		return nil, 0, errors.New("the header is cut")
	}
	tags := rpmTags{}
	for i := range n {
		e := b[16+16*i:]
		tags[binary.BigEndian.Uint32(e)] = struct {
			data  []byte
			count uint32
		}{b[16+16*n+int(binary.BigEndian.Uint32(e[8:])) : end], binary.BigEndian.Uint32(e[12:])}
	}
	return tags, end, nil
}

func (t rpmTags) texts(tag uint32) (list []string) {
	rest := t[tag].data
	for range t[tag].count {
		text, after, _ := bytes.Cut(rest, []byte{0})
		list, rest = append(list, string(text)), after
	}
	return list
}

func (t rpmTags) text(tag uint32) string { return strings.Join(t.texts(tag), "\n") }
