package seal

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/cameronraysmith/fleet/pkg/sops/internal/jsontree"
)

// MaxRecipients bounds the recipients of a document.
const MaxRecipients = 1024

// Metadata is what stands below the key sops of a document.
type Metadata struct {
	// Age are the age recipients, in the file's order.
	Age []Stanza
	// Others are the recipients of other kinds, "pgp FINGERPRINT" say. They are kept.
	Others []string
	// Rule says which values are encrypted.
	Rule Rule
	// EncryptedOnly says that the MAC leaves out what is not encrypted.
	EncryptedOnly bool
	modified      string
	mac           Value
}

// others are the keys of recipients of other kinds, and what names one of them.
var others = map[string][]string{
	"pgp":      {"fp"},
	"kms":      {"arn"},
	"gcp_kms":  {"resource_id"},
	"hckms":    {"key_id"},
	"azure_kv": {"vault_url", "name"},
	"hc_vault": {"vault_address", "engine_path", "key_name"},
}

// texts are the other keys that sops knows, but for those of rules.
var texts = []string{"age", "lastmodified", "mac", "version", "mac_only_encrypted", "key_groups", "shamir_threshold"}

// ParseMetadata reads what stands below the key sops.
func ParseMetadata(v *jsontree.Value) (*Metadata, error) {
	if v == nil || v.Kind != jsontree.Object {
		return nil, fmt.Errorf("%w: it has no object \"sops\"", ErrFormat)
	}
	if err := checkKeys(v); err != nil {
		return nil, err
	}
	m := &Metadata{}
	var err error
	if m.Age, err = stanzas(v.Get("age")); err != nil {
		return nil, err
	}
	if m.Others, err = otherRecipients(v); err != nil {
		return nil, err
	}
	if m.Rule, err = ruleOf(v); err != nil {
		return nil, err
	}
	if b := v.Get("mac_only_encrypted"); b != nil {
		text, _ := b.Text()
		if b.Kind != jsontree.Bool {
			return nil, fmt.Errorf("%w: sops.mac_only_encrypted is %s", ErrFormat, b.Kind)
		}
		m.EncryptedOnly = text == "true"
	}
	modified, err := text(v, "lastmodified")
	if err != nil {
		return nil, err
	}
	at, err := time.Parse(time.RFC3339, modified)
	if err != nil {
		return nil, fmt.Errorf("%w: sops.lastmodified %.40q is no time of RFC 3339", ErrFormat, modified)
	}
	m.modified = at.Format(time.RFC3339)
	mac, err := text(v, "mac")
	if err != nil {
		return nil, err
	}
	if m.mac, err = ParseValue(mac); err != nil {
		return nil, fmt.Errorf("sops.mac: %w", err)
	}
	_, err = text(v, "version")
	return m, err
}

// checkKeys refuses keys that sops would take for others, because it does not tell capitals
// from small letters, and what splits a data key among groups.
func checkKeys(v *jsontree.Value) error {
	known := slices.Concat(texts, rules)
	for k := range others {
		known = append(known, k)
	}
	for _, m := range v.Members {
		for _, k := range known {
			if m.Key != k && strings.EqualFold(m.Key, k) {
				return fmt.Errorf("%w: sops.%.40q must be spelled %q", ErrFormat, m.Key, k)
			}
		}
	}
	for _, k := range []string{"key_groups", "shamir_threshold"} {
		g := v.Get(k)
		if g == nil || g.Kind == jsontree.Null || g.Kind == jsontree.Array && len(g.Elements) == 0 {
			continue
		}
		if n, _ := g.Text(); n != "0" {
			return fmt.Errorf("%w: sops.%s; re-encrypt it with sops for one group of keys", ErrUnsupported, k)
		}
	}
	return nil
}

func text(v *jsontree.Value, key string) (string, error) {
	f := v.Get(key)
	if f == nil {
		return "", fmt.Errorf("%w: sops.%s is missing", ErrFormat, key)
	}
	s, ok := f.Text()
	if f.Kind != jsontree.String || !ok {
		return "", fmt.Errorf("%w: sops.%s is %s, not a string", ErrFormat, key, f.Kind)
	}
	return s, nil
}

func objects(v *jsontree.Value, what string) ([]*jsontree.Value, error) {
	if v == nil || v.Kind == jsontree.Null {
		return nil, nil
	}
	if v.Kind != jsontree.Array {
		return nil, fmt.Errorf("%w: sops.%s is %s, not an array", ErrFormat, what, v.Kind)
	}
	if len(v.Elements) > MaxRecipients {
		return nil, fmt.Errorf("%w: %d recipients, at most %d are read", ErrFormat, len(v.Elements), MaxRecipients)
	}
	for _, e := range v.Elements {
		if e.Kind != jsontree.Object {
			return nil, fmt.Errorf("%w: sops.%s has %s where an object should be", ErrFormat, what, e.Kind)
		}
	}
	return v.Elements, nil
}

func stanzas(v *jsontree.Value) (list []Stanza, err error) {
	elements, err := objects(v, "age")
	if err != nil {
		return nil, err
	}
	for _, e := range elements {
		for _, m := range e.Members {
			if k := strings.ToLower(m.Key); k != m.Key && (k == "enc" || k == "recipient") {
				return nil, fmt.Errorf("%w: sops.age.%.40q must be spelled %q", ErrFormat, m.Key, k)
			}
		}
		s := Stanza{}
		if s.Recipient, err = text(e, "recipient"); err == nil {
			s.Wrapped, err = text(e, "enc")
		}
		if err != nil {
			return nil, fmt.Errorf("a recipient of sops.age: %w", err)
		}
		if s.Recipient == "" || len(s.Recipient) > MaxWrapped || len(s.Wrapped) > MaxWrapped {
			return nil, fmt.Errorf("%w: a recipient of sops.age is empty, or has more than %d bytes", ErrFormat, MaxWrapped)
		}
		list = append(list, s)
	}
	return list, nil
}

func otherRecipients(v *jsontree.Value) (list []string, err error) {
	for _, m := range v.Members {
		names, ok := others[m.Key]
		if !ok {
			continue
		}
		elements, err := objects(m.Value, m.Key)
		if err != nil {
			return nil, err
		}
		for _, e := range elements {
			one := []string{m.Key}
			for _, n := range names {
				s, err := text(e, n)
				if err != nil {
					return nil, fmt.Errorf("a recipient of sops.%s: %w", m.Key, err)
				}
				one = append(one, s)
			}
			list = append(list, strings.Join(one, " "))
		}
	}
	return list, nil
}

// CheckMAC compares a MAC that was computed with the one of the document. It is bound to
// the time of the last change, and so is that time to it.
func (m *Metadata) CheckMAC(k *DataKey, computed MAC) error {
	plain, err := k.Open(m.mac, m.modified)
	if err != nil {
		return fmt.Errorf("its MAC, or the time of its last change, was %w", err)
	}
	if string(plain) != computed.String() {
		return fmt.Errorf("a value was added, removed or moved: the document was %w", ErrTampered)
	}
	return nil
}

// The keys of rules.
const (
	unencryptedSuffix = "unencrypted_suffix"
	encryptedSuffix   = "encrypted_suffix"
	unencryptedRegex  = "unencrypted_regex"
	encryptedRegex    = "encrypted_regex"

	defaultSuffix = "_unencrypted"
)

var rules = []string{
	unencryptedSuffix, encryptedSuffix, unencryptedRegex, encryptedRegex,
	"unencrypted_comment_regex", "encrypted_comment_regex",
}

// Rule says which values of a document are encrypted, by the keys on the way to them.
type Rule struct {
	name, pattern string
	re            *regexp.Regexp
}

func ruleOf(v *jsontree.Value) (Rule, error) {
	r := Rule{name: unencryptedSuffix, pattern: defaultSuffix}
	found := false
	for _, name := range rules {
		if f := v.Get(name); f == nil || f.Kind == jsontree.Null {
			continue
		}
		pattern, err := text(v, name)
		if err != nil {
			return Rule{}, err
		}
		if pattern == "" {
			continue
		}
		if found {
			return Rule{}, fmt.Errorf("%w: sops.%s and sops.%s: only one rule may say what is encrypted", ErrFormat, r.name, name)
		}
		r, found = Rule{name: name, pattern: pattern}, true
	}
	if strings.HasSuffix(r.name, "_regex") {
		var err error
		if r.re, err = regexp.Compile(r.pattern); err != nil {
			return Rule{}, fmt.Errorf("%w: sops.%s: %w", ErrFormat, r.name, err)
		}
	}
	return r, nil
}

// Default returns the key and pattern of the rule where it is the one that sops takes when a
// document names none.
func (r Rule) Default() (key, pattern string, ok bool) {
	return r.name, r.pattern, r.name == unencryptedSuffix && r.pattern == defaultSuffix
}

// Encrypted says whether the value below these keys is encrypted. Rules over comments are
// ErrUnsupported.
func (r Rule) Encrypted(path []string) (bool, error) {
	var match func(string) bool
	switch r.name {
	case unencryptedSuffix, encryptedSuffix:
		match = func(key string) bool { return strings.HasSuffix(key, r.pattern) }
	case unencryptedRegex, encryptedRegex:
		match = r.re.MatchString
	default:
		return false, fmt.Errorf("%w: sops.%s; encrypt by keys instead (encrypted_regex, say)", ErrUnsupported, r.name)
	}
	return slices.ContainsFunc(path, match) == (r.name == encryptedSuffix || r.name == encryptedRegex), nil
}

// Rewrap returns the stanzas of the data key for these recipients: each new, sorted, no
// public key twice.
func (k *DataKey) Rewrap(to []Recipient) ([]Stanza, error) {
	to = slices.Clone(to)
	slices.SortFunc(to, func(a, b Recipient) int { return strings.Compare(a.Text, b.Text) })
	to = slices.CompactFunc(to, func(a, b Recipient) bool { return Canonical(a.Text) == Canonical(b.Text) })
	if len(to) == 0 {
		return nil, errors.New("nobody is to read it: name a recipient")
	}
	if len(to) > MaxRecipients {
		return nil, fmt.Errorf("%d recipients, at most %d", len(to), MaxRecipients)
	}
	list := make([]Stanza, 0, len(to))
	for _, r := range to {
		s, err := k.Wrap(r)
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, nil
}

// SameRecipients says whether a document has just these recipients, in whatever order.
func SameRecipients(have []Stanza, want []Recipient) bool {
	h, w := map[string]bool{}, map[string]bool{}
	for _, s := range have {
		h[Canonical(s.Recipient)] = true
	}
	for _, r := range want {
		w[Canonical(r.Text)] = true
	}
	for k := range h {
		if !w[k] {
			return false
		}
	}
	return len(h) == len(w) && len(have) == len(h)
}

// Array writes stanzas as sops does.
func Array(stanzas []Stanza) *jsontree.Value {
	a := &jsontree.Value{Kind: jsontree.Array}
	for _, s := range stanzas {
		a.Elements = append(a.Elements, jsontree.NewObject("enc", jsontree.NewString(s.Wrapped), "recipient", jsontree.NewString(s.Recipient)))
	}
	return a
}
