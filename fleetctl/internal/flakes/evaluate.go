package flakes

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/nix"
	"github.com/cameronraysmith/fleet/pkg/strictjson"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// Attr is an attribute of a locked flake. It is comparable.
type Attr struct {
	Flake Locked
	// Path as nix.ParseAttrPath reads it.
	Path string
}

// Output is what an attribute evaluates to: a derivation and one output of it.
type Output struct {
	// Drv is the derivation's store path, Name that of the output.
	Drv, Name string
	// Path is the output's store path.
	Path string
	// NarHash is that of the source tree that was evaluated, SRI.
	NarHash string
}

// evaluated is what the expression of Evaluate evaluates to.
type evaluated struct {
	Nix string `json:"nix"`
	// Trees are the hashes of the flakes' trees, where they were not known.
	Trees   []string `json:"trees"`
	Results []struct {
		Drv     string `json:"drv"`
		Out     string `json:"out"`
		Output  string `json:"output"`
		Missing bool   `json:"missing"`
		Is      string `json:"is"`
	} `json:"results"`
}

// maxExpression bounds one expression, in bytes: Linux passes at most 128 KiB
// in one argument.
const maxExpression = 96 << 10

// Evaluate evaluates attributes, all in one process of nix as long as they fit
// on its command line. It builds nothing, save what Nix code imports from a
// derivation. Errors wrap ErrEvaluation, ErrNoAttr, ErrNoDerivation, ErrUnlocked
// or are about nix itself. It does not wait for nix to end once that has printed
// all: Ended MUST be called before anything is signed.
func (n *Nix) Evaluate(ctx context.Context, attrs []Attr) (map[Attr]Output, error) {
	out := make(map[Attr]Output, len(attrs))
	for len(attrs) > 0 {
		e, err := compose(attrs)
		if err != nil {
			return nil, err
		}
		if err := n.evaluate(ctx, e, out); err != nil {
			return nil, err
		}
		attrs = attrs[len(e.attrs):]
	}
	return out, nil
}

func (n *Nix) evaluate(ctx context.Context, e expression, to map[Attr]Output) error {
	line := make(chan []byte, 1)
	p := n.begin(ctx, maxOutput, line, "eval", "--json", "--expr", e.text)
	select {
	case text := <-line:
		n.ending = append(n.ending, func() error {
			if _, err := p.wait(); err != nil {
				return evalError(err, e.attrs)
			}
			return nil
		})
		if e.decode(text, to) == nil {
			return nil
		}
		// It is judged by its end.
	case <-p.ended:
	}
	text, err := p.wait()
	if err != nil {
		return evalError(err, e.attrs)
	}
	return e.decode(text, to)
}

// Ended waits for the evaluations to end, and says whether all of them ended well.
// Most of the memory of a large evaluation is given back only then.
func (n *Nix) Ended() error {
	var errs []error
	for _, end := range n.ending {
		errs = append(errs, end())
	}
	n.ending = nil
	return errors.Join(errs...)
}

// decode reads what the expression evaluated to.
func (e *expression) decode(text []byte, to map[Attr]Output) error {
	attrs := e.attrs
	var res evaluated
	if err := strictjson.Unmarshal(text, maxOutput, &res); err != nil {
		return fmt.Errorf("evaluating: %w: %w", ErrOutput, err)
	}
	if err := checkVersion(res.Nix); err != nil {
		return err
	}
	if len(res.Results) != len(attrs) {
		return fmt.Errorf("evaluating: %w: %d results for %d attributes", ErrOutput, len(res.Results), len(attrs))
	}
	if e.trees && len(res.Trees) != len(e.flakes) {
		return fmt.Errorf("evaluating: %w: %d trees for %d flakes", ErrOutput, len(res.Trees), len(e.flakes))
	}
	for i, r := range res.Results {
		at := attrs[i].Flake.URL + "#" + attrs[i].Path
		switch {
		case r.Missing:
			return ui.WithHint(fmt.Errorf("evaluating %s: %w", at, ErrNoAttr), "correct source.attr or the machine's name, or add it to the flake and commit that")
		case r.Is != "":
			return ui.WithHint(fmt.Errorf("evaluating %s: %w: it is a value of type %s", at, ErrNoDerivation, r.Is), "source.attr must name what nix build can build")
		case fleet.ValidateStorePath(r.Out) != nil || fleet.ValidateStorePath(r.Drv) != nil || r.Output == "":
			return ui.WithHint(fmt.Errorf("evaluating %s: %w: out path %.80q", at, ErrOutput, r.Out),
				"a content-addressed derivation has no out path before it is built: publish with --no-eval")
		}
		hash := attrs[i].Flake.NarHash
		if hash == "" {
			hash = res.Trees[slices.Index(e.flakes, attrs[i].Flake)]
		}
		to[attrs[i]] = Output{Drv: r.Drv, Name: r.Output, Path: r.Out, NarHash: hash}
	}
	return nil
}

// evalContext marks, in nix's explanation of an error, which attribute it was.
const evalContext = "while evaluating for fleetctl: "

var evalMark = regexp.MustCompile(regexp.QuoteMeta(evalContext) + `(\d{1,7})`)

func evalError(err error, attrs []Attr) error {
	f := (*failed)(nil)
	if errors.Is(err, ErrOldNix) || !errors.As(err, &f) {
		return fmt.Errorf("evaluating: %w", err)
	}
	what := attrs[0].Flake.URL
	if m := evalMark.FindStringSubmatch(strings.Join(f.stderr, "\n")); m != nil {
		if i, _ := strconv.Atoi(m[1]); i < len(attrs) {
			what = attrs[i].Flake.URL + "#" + attrs[i].Path
		}
	}
	return ui.WithHint(fmt.Errorf("evaluating %s: %w: %w", what, ErrEvaluation, f), "nix eval shows more with --show-trace")
}

// expression is Nix code that evaluates attributes.
type expression struct {
	text   string
	attrs  []Attr
	flakes []Locked
	// trees says that it gives the hashes of the flakes' trees too.
	trees bool
}

// compose writes the Nix code that evaluates as many of the attributes as fit. An
// attribute that is missing, or nothing to be built, is a result and no error, so
// that it can be told apart.
func compose(attrs []Attr) (expression, error) {
	const rest = `
  output = v: if (v.type or null) == "derivation"
    then { drv = v.drvPath; out = v.outPath; output = v.outputName or "out"; }
    else { is = builtins.typeOf v; };
in {
  nix = builtins.nixVersion;
`
	const trees = "  trees = map (f: f.sourceInfo.narHash or \"\") flakes;\n"
	var e expression
	var head, body strings.Builder
	for i, a := range attrs {
		names, err := nix.ParseAttrPath(a.Path)
		if err != nil {
			return e, err
		}
		index := slices.Index(e.flakes, a.Flake)
		get := ""
		if index < 0 {
			index = len(e.flakes)
			get = "    (builtins.getFlake " + quote(withHash(a.Flake.URL, a.Flake.NarHash)) + ")\n"
		}
		from := fmt.Sprintf("(builtins.elemAt flakes %d)", index)
		for j := range names {
			names[j] = quote(names[j])
		}
		path := strings.Join(names, ".")
		one := fmt.Sprintf("    (builtins.addErrorContext %s (if %s ? %s then output %s.%s else { missing = true; }))\n",
			quote(evalContext+strconv.Itoa(i)), from, path, from, path)
		if i > 0 && head.Len()+len(get)+body.Len()+len(one)+len(rest)+len(trees)+100 > maxExpression {
			break
		}
		if get != "" {
			e.flakes = append(e.flakes, a.Flake)
			head.WriteString(get)
		}
		e.trees = e.trees || a.Flake.NarHash == ""
		body.WriteString(one)
		e.attrs = attrs[:i+1]
	}
	e.text = "let\n  flakes = [\n" + head.String() + "  ];" + rest
	if e.trees {
		e.text += trees
	}
	e.text += "  results = [\n" + body.String() + "  ];\n}"
	return e, nil
}

// quote writes a string of the Nix language.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "${", `\${`, "\n", `\n`, "\r", `\r`, "\t", `\t`).Replace(s) + `"`
}
