package fleet

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// ErrName is wrapped by every error about a malformed identifier.
var ErrName = errors.New("malformed name")

// The patterns are spelled out because regexps with counted repetitions would
// be a twentieth of an idle agent's heap.

const (
	lower  = "abcdefghijklmnopqrstuvwxyz"
	digits = "0123456789"
	upper  = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
)

// isLabel matches [a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?.
func isLabel(s string) bool {
	return consists(s, 63, lower+digits, lower+digits+"-") && s[len(s)-1] != '-'
}

// isUser matches [a-z_][a-z0-9_-]{0,31}.
func isUser(s string) bool {
	return consists(s, 32, lower+"_", lower+digits+"_-")
}

// isToken matches [a-zA-Z0-9][a-zA-Z0-9._-]{0,126}.
func isToken(s string) bool {
	return consists(s, 127, lower+upper+digits, lower+upper+digits+"._-")
}

// IsFileName says whether s is safe as one path element: 1 to 127 letters,
// digits, dots, dashes and underscores, the first a letter or digit.
func IsFileName(s string) bool { return isToken(s) }

// consists says whether s has 1 to most bytes, the first of one set and all
// others of another.
func consists(s string, most int, first, others string) bool {
	return s != "" && len(s) <= most && strings.IndexByte(first, s[0]) >= 0 && strings.Trim(s[1:], others) == ""
}

// FleetID names a fleet: lower-case letters, digits and inner dashes, at most
// 63 bytes. It is the SPIFFE trust domain.
type FleetID string //nolint:revive // "fleet.ID" would say less at every use.

// ParseFleetID checks a fleet id.
func ParseFleetID(s string) (FleetID, error) {
	if !isLabel(s) {
		return "", fmt.Errorf("%w: fleet id %q: use lower-case letters, digits and inner dashes, at most 63", ErrName, clip(s))
	}
	return FleetID(s), nil
}

// MachineName names a machine: lower-case letters, digits and inner dashes,
// at most 63 bytes.
type MachineName string

// ParseMachineName checks a machine name.
func ParseMachineName(s string) (MachineName, error) {
	if !isLabel(s) {
		return "", fmt.Errorf("%w: machine %q: use lower-case letters, digits and inner dashes, at most 63", ErrName, clip(s))
	}
	return MachineName(s), nil
}

// ProfileName is "system" or "home/<user>".
type ProfileName string

// System is the profile that every machine has.
const System ProfileName = "system"

// ParseProfileName checks a profile name.
func ParseProfileName(s string) (ProfileName, error) {
	if s == string(System) {
		return System, nil
	}
	if user, ok := strings.CutPrefix(s, "home/"); ok && isUser(user) {
		return ProfileName(s), nil
	}
	return "", fmt.Errorf("%w: profile %q: use \"system\" or \"home/<user>\"", ErrName, clip(s))
}

// User is the user of a home profile; empty for the system's.
func (p ProfileName) User() string {
	user, ok := strings.CutPrefix(string(p), "home/")
	if !ok {
		return ""
	}
	return user
}

// FileName is the profile's name as one path element.
func (p ProfileName) FileName() string { return strings.ReplaceAll(string(p), "/", "-") }

// PluginName names an external driver or probe: lower-case letters, digits and
// inner dashes, at most 63 bytes.
type PluginName string

// ParsePluginName checks a plugin's name.
func ParsePluginName(s string) (PluginName, error) {
	if !isLabel(s) {
		return "", fmt.Errorf("%w: plugin %q: use lower-case letters, digits and inner dashes, at most 63", ErrName, clip(s))
	}
	return PluginName(s), nil
}

// ReleaseID names a release: letters, digits, dots, dashes, underscores.
type ReleaseID string

// ParseReleaseID checks a release id.
func ParseReleaseID(s string) (ReleaseID, error) {
	if !isToken(s) {
		return "", fmt.Errorf("%w: release %q: use letters, digits, dots and dashes", ErrName, clip(s))
	}
	return ReleaseID(s), nil
}

// OperatorName names an operator, by the rule for user names.
type OperatorName string

// ParseOperatorName checks an operator's name.
func ParseOperatorName(s string) (OperatorName, error) {
	if !isUser(s) {
		return "", fmt.Errorf("%w: operator %q: use lower-case letters, digits, dashes and underscores, at most 32", ErrName, clip(s))
	}
	return OperatorName(s), nil
}

// SecretName names a secret: letters, digits, dots, dashes and underscores.
type SecretName string

// ParseSecretName checks a secret's name.
func ParseSecretName(s string) (SecretName, error) {
	if !isToken(s) {
		return "", fmt.Errorf("%w: secret %q: use letters, digits, dots, dashes and underscores", ErrName, clip(s))
	}
	return SecretName(s), nil
}

// Digest is "sha256:" and 64 lower-case hex digits.
type Digest string

// DigestOf returns the digest of b.
func DigestOf(b []byte) Digest { return DigestFromSum(sha256.Sum256(b)) }

// DigestOfAll names a set of digests by one: that of the sorted ones, one a line.
func DigestOfAll(all []Digest) Digest {
	all = slices.Sorted(slices.Values(all))
	var b strings.Builder
	for _, d := range all {
		b.WriteString(string(d) + "\n")
	}
	return DigestOf([]byte(b.String()))
}

// DigestFromSum wraps a SHA-256 sum.
func DigestFromSum(sum [sha256.Size]byte) Digest {
	return Digest("sha256:" + hex.EncodeToString(sum[:]))
}

// ParseDigest checks a digest.
func ParseDigest(s string) (Digest, error) {
	h, ok := strings.CutPrefix(s, "sha256:")
	if !ok || len(h) != 64 || strings.Trim(h, "0123456789abcdef") != "" {
		return "", fmt.Errorf("%w: digest %q: want sha256: and 64 lower-case hex digits", ErrName, clip(s))
	}
	return Digest(s), nil
}

// Hex is the digest's 64 digits: a file name.
func (d Digest) Hex() string { return strings.TrimPrefix(string(d), "sha256:") }

// Short is a form for people.
func (d Digest) Short() string {
	if h := d.Hex(); len(h) > 12 {
		return h[:12]
	}
	return string(d)
}

// Number orders the generations of one machine and profile: first by the
// epoch, which the trust root states, then by the sequence.
type Number struct {
	Epoch uint64 `json:"epoch"`
	Seq   uint64 `json:"seq"`
}

// Compare is negative when n is lower than m, 0 when equal.
func (n Number) Compare(m Number) int {
	switch {
	case n.Epoch != m.Epoch:
		if n.Epoch < m.Epoch {
			return -1
		}
		return 1
	case n.Seq < m.Seq:
		return -1
	case n.Seq > m.Seq:
		return 1
	}
	return 0
}

// IsZero says whether n is that of generation 0.
func (n Number) IsZero() bool { return n == Number{} }

// String is "epoch.seq", or "0" for generation 0.
func (n Number) String() string {
	if n.IsZero() {
		return "0"
	}
	return strconv.FormatUint(n.Epoch, 10) + "." + strconv.FormatUint(n.Seq, 10)
}

// ParseNumber reads what String writes.
func ParseNumber(s string) (Number, error) {
	if s == "0" {
		return Number{}, nil
	}
	e, q, ok := strings.Cut(s, ".")
	if ok {
		epoch, err1 := strconv.ParseUint(e, 10, 64)
		seq, err2 := strconv.ParseUint(q, 10, 64)
		if err1 == nil && err2 == nil {
			return Number{Epoch: epoch, Seq: seq}, nil
		}
	}
	return Number{}, fmt.Errorf("%w: generation number %q: want EPOCH.SEQ", ErrName, clip(s))
}

// Ref names a generation.
type Ref struct {
	Number  Number    `json:"number"`
	Digest  Digest    `json:"digest,omitempty"`
	Release ReleaseID `json:"release,omitempty"`
}

// IsZero says whether r names nothing.
func (r Ref) IsZero() bool { return r == Ref{} }

// clip bounds what an error repeats of outside bytes.
func clip(s string) string {
	const most = 80
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
