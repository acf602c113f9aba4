package auditlog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// chain makes records as a coordinator stores them.
func chain(t testing.TB, n int, edit func(*Record)) [][]byte {
	t.Helper()
	var out [][]byte
	prev := origin
	for i := range n {
		r := Record{Seq: uint64(i) + 1, Time: time.Date(2026, 3, 1, 12, 0, i, 0, time.UTC), Prev: prev, Actor: "operator/cameron", Kind: "token-created", Message: "a <b> & c"}
		if edit != nil {
			edit(&r)
		}
		line, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, line)
		prev = HashOf(line)
	}
	return out
}

func text(lines ...[]byte) *bytes.Reader {
	return bytes.NewReader(append(bytes.Join(lines, []byte("\n")), '\n'))
}

func TestVerify(t *testing.T) {
	all := chain(t, 5, nil)
	forged := chain(t, 5, func(r *Record) { r.Actor = "operator/eve" })
	head := Head{3, HashOf(all[2])}
	for name, tc := range map[string]struct {
		lines [][]byte
		known []Head
		want  error
	}{
		"whole":              {all, []Head{head}, nil},
		"from the middle":    {all[2:], []Head{{2, HashOf(all[1])}}, nil},
		"altered":            {[][]byte{all[0], bytes.Replace(all[1], []byte("cameron"), []byte("cameroN"), 1), all[2]}, nil, ErrBroken},
		"dropped":            {[][]byte{all[0], all[2]}, nil, ErrBroken},
		"moved":              {[][]byte{all[1], all[0]}, nil, ErrBroken},
		"twice":              {[][]byte{all[0], all[0]}, nil, ErrBroken},
		"rewritten":          {forged, []Head{head}, ErrBroken},
		"rewritten at begin": {forged[3:], []Head{head}, ErrBroken},
		"cut":                {all[:2], []Head{head}, ErrBroken},
		"no record":          {[][]byte{[]byte("{}")}, nil, ErrRecord},
		"no JSON":            {[][]byte{[]byte("hello")}, nil, ErrRecord},
		"control characters": {[][]byte{bytes.Replace(all[0], []byte("a <"), []byte("a \x1b"), 1), all[1]}, nil, nil},
		"too long":           {[][]byte{bytes.Repeat([]byte("x"), MaxRecord+2)}, nil, ErrRecord},
		"first follows":      {[][]byte{bytes.Replace(all[0], []byte(origin), []byte(HashOf(all[0])), 1)}, nil, ErrBroken},
	} {
		v := &Verifier{Known: tc.known}
		err := v.Read(text(tc.lines...), nil)
		if err == nil {
			err = v.Finish()
		}
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v, want %v", name, err, tc.want)
		}
	}
}

func TestOverlappingExports(t *testing.T) {
	all := chain(t, 5, nil)
	forged := chain(t, 5, func(r *Record) { r.Alarm = true })
	at := map[uint64]string{}
	v := &Verifier{}
	if err := errors.Join(v.Read(text(all[:4]...), at), v.Read(text(all[2:]...), at)); err != nil || v.Head().Seq != 5 {
		t.Errorf("%v, head %v", err, v.Head())
	}
	if err := v.Read(text(forged[2:]...), at); !errors.Is(err, ErrBroken) {
		t.Errorf("a rewritten log beside an earlier export: %v", err)
	}
}

func TestParseHead(t *testing.T) {
	hash := strings.Repeat("ab", 32)
	if h, err := ParseHead("7:" + hash); err != nil || h.Seq != 7 || h.Hash != hash {
		t.Errorf("%v, %v", h, err)
	}
	for _, bad := range []string{"", "7", ":" + hash, "0:" + hash, "7:" + hash[1:], "7:" + strings.Repeat("zz", 32)} {
		if _, err := ParseHead(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestReleases(t *testing.T) {
	mine := []fleet.Digest{fleet.DigestOf([]byte("a")), fleet.DigestOf([]byte("b"))}
	r := &Releases{Known: map[fleet.ReleaseID][]fleet.Digest{"r1": mine, "r2": mine[:1]}, Committed: []fleet.ReleaseID{"r1", "r3"}}
	note := func(kind, message string) { r.Note(&Record{Seq: 9, Actor: "operator/x", Kind: kind, Message: message}) }
	note("release-committed", "r1: generations 2, machines 2, digests "+string(fleet.DigestOfAll(mine)))
	note("release-committed", "r1: generations 2, machines 2") // An older coordinator's.
	note("generation-adopted", "system: generation 1.1 of r1 ("+mine[0].Short()+") runs there")
	if len(r.Findings()) != 0 {
		t.Errorf("found %v", r.Findings())
	}
	note("release-committed", "r2: generations 2, machines 2, revision x, digests "+string(fleet.DigestOfAll(mine)))
	note("release-committed", "r9: generations 2, machines 2, digests "+string(fleet.DigestOfAll(mine)))
	note("generation-adopted", "system: generation 1.1 of r1 (0123456789ab) runs there")
	if len(r.Findings()) != 3 || len(r.Missing()) != 1 || r.Missing()[0] != "r3" {
		t.Errorf("found %v, missing %v", r.Findings(), r.Missing())
	}
}

func FuzzParse(f *testing.F) {
	for _, line := range chain(f, 2, nil) {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := Parse(line)
		if err != nil {
			return
		}
		if bytes.ContainsAny(line, "\n\r") || len(r.Prev) != 64 {
			t.Errorf("%q is taken", line)
		}
	})
}

// FuzzParseHead: a head has one form.
func FuzzParseHead(f *testing.F) {
	hash := strings.Repeat("0f", 32)
	f.Add("7:" + hash)
	f.Add("18446744073709551615:" + hash)
	for _, s := range []string{"7x:" + hash, "+7:" + hash, "07:" + hash, " 7:" + hash, "0:" + hash, "7:" + hash + "0", "7:" + strings.ToUpper(hash)} {
		if h, err := ParseHead(s); err == nil {
			f.Errorf("%q is taken for %+v", s, h)
		}
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, err := ParseHead(s)
		if err != nil {
			return
		}
		if back := fmt.Sprintf("%d:%s", h.Seq, h.Hash); back != s {
			t.Errorf("%q is taken for %q", s, back)
		}
		if err := (fleet.LogHead{Seq: h.Seq, Hash: h.Hash}).Validate(); err != nil {
			t.Error(err)
		}
	})
}

// FuzzMemory: what is remembered is a head, and is the same when it is written
// again.
func FuzzMemory(f *testing.F) {
	at := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	good, err := json.Marshal(Memory{Seen: fleet.LogHead{Seq: 7, Hash: strings.Repeat("0f", 32)}, Time: at, Signed: at, SignedSeq: 5})
	if err != nil {
		f.Fatal(err)
	}
	if _, err := decodeMemory(good); err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte(`{"seen":{"seq":7,"hash":"0f"}}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := decodeMemory(data)
		if err != nil {
			return
		}
		if err := m.Seen.Validate(); err != nil || len(data) > maxMemory {
			t.Errorf("%d bytes: %v", len(data), err)
		}
		text, err := json.Marshal(m)
		if err != nil {
			return // A year beyond 9999.
		}
		again, err := decodeMemory(text)
		if err != nil || again.Seen != m.Seen || !again.Time.Equal(m.Time) || !again.Signed.Equal(m.Signed) || again.SignedSeq != m.SignedSeq {
			t.Errorf("%+v becomes %+v, %v", m, again, err)
		}
	})
}
