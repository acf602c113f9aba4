package flakes

import (
	"errors"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/fleetctl/internal/flakes/nixtest"
)

func TestGenerators(t *testing.T) {
	r := nixtest.New(t, "generators")
	n := &Nix{Program: r.Program}
	all, err := n.Generators(t.Context(), nixtest.Ref, "linux", "amd64", []string{"none", "box2", "box1"})
	if err != nil {
		t.Fatal(err)
	}
	g := all["box1"]["x"]
	if len(all) != 2 || !g.Share || g.ValidationHash != "" || g.Prompts["tok"] != (DeclaredPrompt{"hidden", "tok", true}) {
		t.Errorf("%+v", all)
	}
	// Octal text, and a number of the bits.
	if f := g.Files["pw"]; f.Mode != 0o440 || f.Deploy || !f.Secret || f.Owner != "bob" || f.NeededFor != "users" {
		t.Errorf("pw: %+v", f)
	}
	if f := g.Files["tok"]; f.Mode != 0o400 || !f.Deploy || len(f.RestartUnits) != 1 {
		t.Errorf("tok: %+v", f)
	}
	if err := n.Build(t.Context(), []Output{g.Script}); err != nil || r.Calls() != "eval build" {
		t.Errorf("%v after %s", err, r.Calls())
	}
}

func TestGeneratorsRefused(t *testing.T) {
	ask := func(edits ...string) error {
		_, err := (&Nix{Program: nixtest.New(t, "generators", edits...).Program}).Generators(t.Context(), nixtest.Ref, "linux", "amd64", []string{"none", "box2", "box1"})
		return err
	}
	const script = `"script":{"Drv":"/nix/store/3j36i4libxrhvhlzc0wmj806byh41zxx-x.drv","Name":"out","Path":"/nix/store/jhcf4cf49gan50bnwcl93xymplpcq8f6-x"}`
	of := func(files, prompts, script string) string {
		return `{"box1":{"x":{"share":false,"dependencies":[],"validationHash":"","prompts":{` + prompts + `},"files":{` + files + `},` + script + `}}}`
	}
	if err := ask("eval.out", of("", "", script)); err != nil {
		t.Fatal(err)
	}
	for out, want := range map[string]string{
		of("", "", `"script":{"Drv":"/tmp/x","Name":"out","Path":"/tmp/x"}`):                                                         "no derivation",
		of("", `"p":{"type":"loud","description":"","persist":false}`, script):                                                       "of type",
		of(`"f":{"secret":true,"deploy":true,"owner":"","group":"","mode":"0400","neededFor":"boot","restartUnits":[]}`, "", script): "needed for",
		of(`"f":{"mode":"0999"}`, "", script):                                                                                        "mode",
		of(`"f":{"mode":"-1"}`, "", script):                                                                                          "mode",
		`[]`:                                                                                                                         "array",
		`{"box1":{},"box1":{}}`:                                                                                                      "box1",
	} {
		if err := ask("eval.out", out); !errors.Is(err, ErrOutput) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", out, err)
		}
	}
	for text, want := range map[string]error{
		"error: flake 'x' does not provide attribute 'clanInternals'\n": ErrNoAttr, "error: undefined variable\n": ErrEvaluation,
	} {
		if err := ask("eval.code", "1\n", "eval.err", text); !errors.Is(err, want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := (&Nix{}).Generators(t.Context(), "--x", "linux", "amd64", nil); !errors.Is(err, ErrFetch) {
		t.Error(err)
	}
	if _, err := (&Nix{}).Generators(t.Context(), ".", "plan9", "amd64", nil); !errors.Is(err, ErrNoAttr) {
		t.Error(err)
	}
}
