package plain

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/sops"
	"github.com/cameronraysmith/fleet/pkg/sops/internal/jsontree"
)

// RulesFile is where the rules of a directory, and of those below it, are.
const RulesFile = ".sops.yaml"

const (
	maxRules     = 1 << 10
	maxRulesFile = 1 << 20
	maxWalk      = 1 << 18
)

// Rule says to whom files with certain paths are encrypted.
type Rule struct {
	// Pattern is its path_regex; one that is empty matches all paths.
	Pattern string
	// Age are the public keys of age.
	Age []string
	// Others are recipients of other kinds, as [File.OtherRecipients] names them. Nothing is
	// encrypted to them here.
	Others []string

	re *regexp.Regexp
}

// Rules are the creation_rules of a .sops.yaml.
type Rules []Rule

// For returns the first rule for a path, which is relative to the directory of the rules.
func (rs Rules) For(path string) (Rule, bool) {
	for _, r := range rs {
		if r.re == nil || r.re.MatchString(path) {
			return r, true
		}
	}
	return Rule{}, false
}

// ParseRules reads a .sops.yaml, aliases included. Several key groups, of which a file needs
// more than one, are refused.
func ParseRules(data []byte) (Rules, error) {
	if len(data) > maxRulesFile {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are read", sops.ErrFormat, len(data), maxRulesFile)
	}
	body, err := parseYAML(data, true)
	if err != nil || body == nil {
		return nil, err
	}
	root, err := (&yamlReader{anchors: map[string]ast.Node{}}).value(body, 0)
	if err != nil {
		return nil, err
	}
	list := root.Get("creation_rules")
	if list == nil || list.Kind == jsontree.Null {
		return nil, nil
	}
	if list.Kind != jsontree.Array || len(list.Elements) > maxRules {
		return nil, fmt.Errorf("%w: creation_rules is no list of at most %d", sops.ErrFormat, maxRules)
	}
	var rules Rules
	for i, e := range list.Elements {
		r, err := parseRule(e)
		if err != nil {
			return nil, fmt.Errorf("creation rule %d: %w", i+1, err)
		}
		rules = append(rules, r)
	}
	return rules, nil
}

// ruleKeys are the keys of recipients in a rule and a key group, and how files name them.
var ruleKeys = map[string]string{
	"age": "age", "pgp": "pgp", "kms": "kms", "gcp_kms": "gcp_kms", "hckms": "hckms",
	"azure_keyvault": "azure_kv", "hc_vault": "hc_vault", "hc_vault_transit_uri": "hc_vault",
}

func parseRule(v *jsontree.Value) (Rule, error) {
	r := Rule{}
	if v.Kind != jsontree.Object {
		return r, fmt.Errorf("%w: it is %s", sops.ErrFormat, v.Kind)
	}
	var err error
	if p := v.Get("path_regex"); p != nil {
		r.Pattern, _ = p.Text()
	}
	if r.Pattern != "" {
		if r.re, err = regexp.Compile(r.Pattern); err != nil {
			return r, fmt.Errorf("%w: path_regex: %w", sops.ErrFormat, err)
		}
	}
	groups := v.Get("key_groups")
	if groups == nil || groups.Kind == jsontree.Null {
		return r, r.add(v, 0)
	}
	if groups.Kind != jsontree.Array {
		return r, fmt.Errorf("%w: key_groups is %s", sops.ErrFormat, groups.Kind)
	}
	if len(groups.Elements) > 1 {
		return r, fmt.Errorf("%w: %d key groups; keep one", sops.ErrUnsupported, len(groups.Elements))
	}
	for _, g := range groups.Elements {
		err = errors.Join(err, r.add(g, 0))
	}
	return r, err
}

// add adds the recipients of a rule or a key group.
func (r *Rule) add(v *jsontree.Value, depth int) error {
	for _, m := range v.Members {
		if m.Key == "merge" && m.Value.Kind == jsontree.Array && depth < 8 {
			for _, g := range m.Value.Elements {
				if err := r.add(g, depth+1); err != nil {
					return err
				}
			}
		}
		kind, ok := ruleKeys[m.Key]
		if !ok {
			continue
		}
		names, err := keyNames(m.Value)
		if err != nil {
			return fmt.Errorf("%s: %w", m.Key, err)
		}
		for _, n := range names {
			if kind == "age" {
				r.Age = append(r.Age, n)
			} else {
				r.Others = append(r.Others, kind+" "+n)
			}
		}
	}
	return nil
}

// keyNames are those of "a, b", of a list of such, or of a list of objects that have one.
func keyNames(v *jsontree.Value) (list []string, err error) {
	switch v.Kind {
	case jsontree.Null:
	case jsontree.Array:
		for _, e := range v.Elements {
			more, err := keyNames(e)
			if err != nil {
				return nil, err
			}
			list = append(list, more...)
		}
	case jsontree.Object: // Of a cloud's key service: named by its first text.
		for _, m := range v.Members {
			if s, ok := m.Value.Text(); ok {
				return []string{s}, nil
			}
		}
	case jsontree.String:
		s, _ := v.Text()
		for part := range strings.SplitSeq(s, ",") {
			if part = strings.TrimSpace(part); part != "" {
				list = append(list, part)
			}
		}
	case jsontree.Bool, jsontree.Number:
		err = fmt.Errorf("%w: it is %s", sops.ErrFormat, v.Kind)
	}
	return list, err
}

// Found is a file that sops encrypted, or that a rule says it should have.
type Found struct {
	// Path is relative to the directory of the rules.
	Path string
	Rule Rule
	// File is nil where Err says why it cannot be handled.
	File *File
	Err  error
}

// List finds the files below a directory that its .sops.yaml has a rule for: those that are
// encrypted, and those that are not although a path_regex names them. What cannot be handled
// is among them, with the reason. Directories in skip (relative) are left out, as git's is;
// links are not followed. No .sops.yaml is no files.
func List(dir string, skip ...string) ([]Found, error) {
	data, err := atomicfile.ReadAtMost(filepath.Join(dir, RulesFile), maxRulesFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err //nolint:wrapcheck // It names the file.
	}
	rules, err := ParseRules(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", RulesFile, err)
	}
	var list []Found
	seen := 0
	err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if seen++; seen > maxWalk {
			return fmt.Errorf("more than %d files below %s", maxWalk, dir)
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err //nolint:wrapcheck // It cannot be.
		}
		rel = filepath.ToSlash(rel)
		if d.IsDir() && (d.Name() == ".git" || slices.Contains(skip, rel)) {
			return fs.SkipDir
		}
		rule, ok := rules.For(rel)
		if !ok || !d.Type().IsRegular() || rel == RulesFile {
			return nil
		}
		f, is, err := look(p, rel, rule)
		if is {
			list = append(list, f)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("looking for files of sops: %w", err)
	}
	return list, nil
}

// look says whether a file is one of sops's, or should be.
func look(p, rel string, rule Rule) (Found, bool, error) {
	f, err := os.Open(p)
	if err != nil {
		return Found{}, false, err //nolint:wrapcheck // os errors name the path.
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return Found{}, false, err //nolint:wrapcheck // As above.
	}
	found := Found{Path: rel, Rule: rule}
	sealed := bytes.Contains(data, []byte("ENC[AES256_GCM,"))
	if !sealed && rule.re == nil {
		return found, false, nil // A rule for everything does not mean every file.
	}
	format, err := FormatOf(rel)
	if err == nil {
		found.File, err = Parse(data, format)
	}
	if err != nil {
		found.File, found.Err = nil, fmt.Errorf("%s: %w", rel, err)
		if errors.Is(err, ErrClear) || !sealed {
			found.Err = fmt.Errorf("%s: %w, and a rule of %s names it; encrypt it, or move it away", rel, ErrClear, RulesFile)
		}
	}
	return found, true, nil
}

// Rekey returns the file for the recipients of its rule. Recipients of other kinds must be
// those that it has already.
func (f Found) Rekey(ids []sops.Identity, plugins sops.Plugins) (*File, error) {
	if f.Err != nil {
		return nil, f.Err
	}
	for _, o := range f.Rule.Others {
		if !slices.Contains(f.File.OtherRecipients(), o) {
			return nil, fmt.Errorf("%s: its rule wants %s: %w; use sops updatekeys", f.Path, o, sops.ErrUnsupported)
		}
	}
	for _, o := range f.File.OtherRecipients() {
		if !slices.Contains(f.Rule.Others, o) {
			return nil, fmt.Errorf("%s: it is for %s, whom its rule does not name: %w; use sops updatekeys", f.Path, o, sops.ErrUnsupported)
		}
	}
	var to []sops.Recipient
	for _, text := range f.Rule.Age {
		r, err := sops.ParseRecipient(text, plugins)
		if err != nil {
			return nil, fmt.Errorf("%s: its rule: %w", f.Path, err)
		}
		to = append(to, r)
	}
	file, err := f.File.Rewrap(ids, to)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Path, err)
	}
	return file, nil
}
