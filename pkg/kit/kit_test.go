package kit_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/kit"
)

func example() *kit.Kit {
	return &kit.Kit{
		Format: kit.Format, Fleet: "first", Name: "cinnabar", CACert: []byte("cert"), CAKey: []byte("key"), Cert: []byte("leaf"), Key: []byte("own"),
		RootPin: fleet.DigestOf([]byte("root")), Roots: [][]byte{[]byte("root")},
		Machines:  []kit.Machine{{Name: "galena", Class: fleet.ClassNixOS, Tags: []string{"web"}}, {Name: "electrum", Class: fleet.ClassLinux, Disabled: true}},
		Operators: []kit.Operator{{Name: "cameron", Role: fleet.RoleAdmin}},
		Bans:      []kit.Ban{{Machine: "pyrite", Reason: "stolen"}},
	}
}

func newIdentity(t *testing.T) *age.X25519Identity {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestSealOpen(t *testing.T) {
	id := newIdentity(t)
	sealed, err := example().Seal(id.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, []byte("galena")) {
		t.Error("it is readable")
	}
	got, err := kit.Open(sealed, newIdentity(t), id)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(example(), got); d != "" {
		t.Error(d)
	}
	if _, err := kit.Open(sealed, newIdentity(t)); !errors.Is(err, kit.ErrKey) {
		t.Errorf("with another key: %v", err)
	}
	cut := sealed[:len(sealed)/2]
	if _, err := kit.Open(cut, id); !errors.Is(err, kit.ErrMalformed) {
		t.Errorf("cut: %v", err)
	}
	altered := bytes.Clone(sealed)
	altered[len(altered)-60] ^= 1
	if _, err := kit.Open(altered, id); !errors.Is(err, kit.ErrMalformed) {
		t.Errorf("altered: %v", err)
	}
	if _, err := kit.Open(nil, id); !errors.Is(err, kit.ErrMalformed) {
		t.Errorf("empty: %v", err)
	}
}

func TestCheck(t *testing.T) {
	for name, edit := range map[string]func(*kit.Kit){
		"fleet":           func(k *kit.Kit) { k.Fleet = "First" },
		"name":            func(k *kit.Kit) { k.Name = "../x" },
		"no CA":           func(k *kit.Kit) { k.CACert = nil },
		"no key":          func(k *kit.Kit) { k.Key = nil },
		"pin":             func(k *kit.Kit) { k.RootPin = "sha256:" },
		"no roots":        func(k *kit.Kit) { k.Roots = nil },
		"machine":         func(k *kit.Kit) { k.Machines[0].Name = "a/b" },
		"class":           func(k *kit.Kit) { k.Machines[0].Class = "windows" },
		"machine twice":   func(k *kit.Kit) { k.Machines[1].Name = "galena" },
		"operator":        func(k *kit.Kit) { k.Operators[0].Name = "Root" },
		"role":            func(k *kit.Kit) { k.Operators[0].Role = "king" },
		"operators twice": func(k *kit.Kit) { k.Operators = append(k.Operators, k.Operators[0]) },
		"ban":             func(k *kit.Kit) { k.Bans[0].Machine = "" },
	} {
		t.Run(name, func(t *testing.T) {
			k := example()
			edit(k)
			if err := k.Check(); !errors.Is(err, kit.ErrMalformed) {
				t.Errorf("got %v", err)
			}
			if _, err := k.Seal(newIdentity(t).Recipient()); !errors.Is(err, kit.ErrMalformed) {
				t.Errorf("sealed: %v", err)
			}
		})
	}
}

func TestParse(t *testing.T) {
	good, err := json.Marshal(example())
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		in   string
		want error
	}{
		"unknown field": {strings.Replace(string(good), `"name"`, `"extra":1,"name"`, 1), kit.ErrMalformed},
		"twice":         {strings.Replace(string(good), `"name"`, `"name":"x","name"`, 1), kit.ErrMalformed},
		"newer":         {strings.Replace(string(good), `"format":3`, `"format":4,"novelty":true`, 1), kit.ErrNewer},
		"trailing":      {string(good) + "{}", kit.ErrMalformed},
		"not JSON":      {"fleet", kit.ErrMalformed},
	} {
		if _, err := kit.Parse([]byte(tt.in)); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", name, err, tt.want)
		}
	}
	if _, err := kit.Parse(good); err != nil {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	good, err := json.Marshal(example())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"format":3}`))
	f.Add([]byte(`{"fleet":"x","FLEET":"y"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := kit.Parse(b)
		if err != nil {
			return
		}
		again, err := json.Marshal(k)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := kit.Parse(again); err != nil {
			t.Errorf("what was read can't be read again: %v", err)
		}
	})
}
