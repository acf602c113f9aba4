package fleet

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// ErrInvalid is wrapped by every error about a document that is well-formed
// but says something that it must not say.
var ErrInvalid = errors.New("invalid document")

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

// Validate checks everything about a generation that needs no context. What a
// newer version may know and this one doesn't (a probe kind, a mode) is
// refused, never skipped.
func (g *Generation) Validate() error {
	if g.Type != TypeGeneration {
		return invalid("type is %q, want %q", clip(g.Type), TypeGeneration)
	}
	if err := validateSubject(g.Fleet, g.Machine, g.Profile); err != nil {
		return err
	}
	if _, err := ParseReleaseID(string(g.Release)); err != nil {
		return err
	}
	if g.Number.Epoch == 0 || g.Number.Seq == 0 {
		return invalid("number %s: epoch and number count from 1", g.Number)
	}
	if !g.Issued.Before(g.Expires) {
		return invalid("it expires before it is issued")
	}
	if err := g.Source.Validate(); err != nil {
		return err
	}
	if g.Secrets != nil {
		if _, err := ParseDigest(string(g.Secrets.Digest)); err != nil {
			return err
		}
	}
	if err := ValidateProbes(g.Probes); err != nil {
		return err
	}
	if err := g.Policy.Validate(); err != nil {
		return err
	}
	if err := g.validatePlugins(); err != nil {
		return err
	}
	if err := g.Reach.Validate(); err != nil {
		return err
	}
	if err := g.validateConsole(); err != nil {
		return err
	}
	if len(g.RevertTo) > MaxRevertTo {
		return invalid("revert_to lists %d generations, at most %d", len(g.RevertTo), MaxRevertTo)
	}
	for _, r := range g.RevertTo {
		if r.Number.Compare(g.Number) >= 0 {
			return invalid("revert_to lists %s, which is not earlier than %s", r.Number, g.Number)
		}
		if _, err := ParseDigest(string(r.Digest)); err != nil {
			return err
		}
	}
	return nil
}

func validateSubject(f FleetID, m MachineName, p ProfileName) error {
	if _, err := ParseFleetID(string(f)); err != nil {
		return err
	}
	if _, err := ParseMachineName(string(m)); err != nil {
		return err
	}
	_, err := ParseProfileName(string(p))
	return err
}

// ValidateProbes checks a list of probes.
func ValidateProbes(probes []Probe) error {
	if len(probes) > MaxProbes {
		return invalid("%d probes, at most %d", len(probes), MaxProbes)
	}
	seen := map[string]bool{}
	for _, p := range probes {
		if !isToken(p.Name) {
			return invalid("probe name %q: use letters, digits, dots and dashes", clip(p.Name))
		}
		if seen[p.Name] {
			return invalid("two probes are called %q", p.Name)
		}
		seen[p.Name] = true
		if err := p.Validate(); err != nil {
			return fmt.Errorf("probe %q: %w", p.Name, err)
		}
	}
	return nil
}

// Validate checks one probe, its name aside.
func (p Probe) Validate() error {
	switch p.Kind {
	case ProbeExec:
		if len(p.Argv) == 0 || len(p.Argv) > 64 || p.Argv[0] == "" {
			return invalid("exec needs argv, of 1 to 64 words")
		}
	case ProbeHTTP:
		u, err := url.Parse(p.URL)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
			return invalid("http needs a url such as http://127.0.0.1:8080/health")
		}
		if p.Status != 0 && (p.Status < 100 || p.Status > 599) {
			return invalid("status %d is no HTTP status", p.Status)
		}
	case ProbeTCP:
		if _, port, err := net.SplitHostPort(p.Address); err != nil || port == "" {
			return invalid("tcp needs an address such as 127.0.0.1:22")
		}
	case ProbeSystemd:
		if p.Unit == "" || strings.ContainsAny(p.Unit, "/ \x00") || strings.HasPrefix(p.Unit, "-") {
			return invalid("systemd needs a unit such as nginx.service")
		}
	case ProbePlugin:
		if _, err := ParsePluginName(string(p.Plugin)); err != nil {
			return err
		}
		return validateConfig(p.Config)
	default:
		return invalid("kind %q: use exec, http, tcp, systemd or plugin", clip(string(p.Kind)))
	}
	return nil
}

// Validate checks a policy.
func (p Policy) Validate() error {
	switch p.Mode {
	case "", ModeObserve, ModeManage:
	default:
		return invalid("policy mode %q: use observe or manage", clip(string(p.Mode)))
	}
	switch p.Reboot {
	case "", RebootNever, RebootAsk, RebootAuto:
	default:
		return invalid("policy reboot %q: use never, ask or auto", clip(string(p.Reboot)))
	}
	switch p.Drift {
	case "", DriftReport, DriftCorrect:
	default:
		return invalid("policy drift %q: use report or correct", clip(string(p.Drift)))
	}
	switch p.Agent {
	case "", AgentStays, AgentLeaves:
	default:
		return invalid("policy agent %q: use stays or leaves", clip(string(p.Agent)))
	}
	switch p.OnInconclusive {
	case "", InconclusiveRollback, InconclusiveKeep:
	default:
		return invalid("policy on_inconclusive %q: use rollback or keep", clip(string(p.OnInconclusive)))
	}
	if p.KeepGenerations > MaxKeepGenerations {
		return invalid("policy keep_generations %d: at most %d", p.KeepGenerations, MaxKeepGenerations)
	}
	return p.Console.Validate()
}

// Validate checks everything about a secrets manifest that needs no context.
func (m *SecretsManifest) Validate() error {
	if m.Type != TypeSecrets {
		return invalid("type is %q, want %q", clip(m.Type), TypeSecrets)
	}
	if err := validateSubject(m.Fleet, m.Machine, m.Profile); err != nil {
		return err
	}
	if !m.Issued.Before(m.Expires) {
		return invalid("it expires before it is issued")
	}
	if len(m.Entries) > MaxSecrets {
		return invalid("%d secrets, at most %d", len(m.Entries), MaxSecrets)
	}
	if err := m.validateFloors(); err != nil {
		return err
	}
	names, paths := map[SecretName]bool{}, map[string]SecretName{}
	for _, e := range m.Entries {
		if err := e.validate(); err != nil {
			return fmt.Errorf("secret %q: %w", clip(string(e.Name)), err)
		}
		for _, p := range append([]string{e.Path}, e.Also...) {
			if other, taken := paths[p]; taken {
				return invalid("secrets %q and %q: both would be at %q", clip(string(other)), e.Name, clip(p))
			}
			paths[p] = e.Name
		}
		if names[e.Name] {
			return invalid("secret %q: its name is there twice", e.Name)
		}
		names[e.Name] = true
		for rule, needed := range map[string]bool{
			CriticalNeededFor: e.NeededFor.Early(), CriticalRestartUnits: len(e.RestartUnits) > 0,
			CriticalSecretFormat: e.Format != "", CriticalAlso: len(e.Also) > 0,
		} {
			if needed && !slices.Contains(m.Critical, rule) {
				return invalid("secret %q has it and the manifest does not list %q as critical", e.Name, rule)
			}
		}
	}
	return nil
}

func (m *SecretsManifest) validateFloors() error {
	if len(m.Floors) > MaxFloors {
		return invalid("floors for %d secrets, at most %d", len(m.Floors), MaxFloors)
	}
	for name, floor := range m.Floors {
		if _, err := ParseSecretName(string(name)); err != nil {
			return fmt.Errorf("floor of %q: %w", clip(string(name)), err)
		}
		if floor == 0 {
			return invalid("floor of %q: versions count from 1", name)
		}
	}
	for _, e := range m.Entries {
		if e.Version < m.Floors[e.Name] {
			return invalid("secret %q: version %d is below its floor, %d", clip(string(e.Name)), e.Version, m.Floors[e.Name])
		}
	}
	if m.RevokedBefore.After(m.Issued) {
		return invalid("it revokes what was issued before %s, and was issued before that itself", m.RevokedBefore.UTC().Format(time.RFC3339))
	}
	for rule, needed := range map[string]bool{CriticalFloors: len(m.Floors) > 0, CriticalRevokedBefore: !m.RevokedBefore.IsZero()} {
		if needed && !slices.Contains(m.Critical, rule) {
			return invalid("it has %s and does not list that as critical", rule)
		}
	}
	return nil
}

func (e SecretEntry) validate() error {
	if _, err := ParseSecretName(string(e.Name)); err != nil {
		return err
	}
	if _, err := ParseDigest(string(e.Digest)); err != nil {
		return err
	}
	if e.Version == 0 {
		return invalid("versions count from 1")
	}
	// The ciphertext of MaxSecretBytes and its stanzas.
	if e.Size == 0 || e.Size > 2*MaxSecretBytes {
		return invalid("ciphertext of %d bytes: want 1 to %d", e.Size, 2*MaxSecretBytes)
	}
	if len(e.Also) > MaxAlso {
		return invalid("%d other paths, at most %d", len(e.Also), MaxAlso)
	}
	for _, p := range append([]string{e.Path}, e.Also...) {
		if !filepath.IsLocal(p) || path.Clean(p) != p || p == "." || strings.ContainsRune(p, 0) {
			return invalid("path %q: want a relative path without \"..\"", clip(p))
		}
	}
	if e.Mode == 0 || e.Mode > 0o777 {
		return invalid("mode %#o: want permission bits", e.Mode)
	}
	if e.Format != "" && e.Format != FormatSops {
		return invalid("format %q: use sops, or none for an age file", clip(string(e.Format)))
	}
	switch e.NeededFor {
	case "", NeededForServices:
	case NeededForUsers, NeededForActivation:
		if e.Owner != "" || e.Group != "" {
			return invalid("it has an owner or a group, and is needed for %s, before there are users: leave them out, it is root's", e.NeededFor)
		}
	default:
		return invalid("needed_for %q: use services, users or activation", clip(string(e.NeededFor)))
	}
	if len(e.RestartUnits) > MaxRestartUnits {
		return invalid("it restarts %d units, at most %d", len(e.RestartUnits), MaxRestartUnits)
	}
	for _, u := range e.RestartUnits {
		if !IsUnitName(u) {
			return invalid("unit %q: want a whole name, such as nginx.service", clip(u))
		}
	}
	return nil
}

// Early says whether a secret is needed before there are users, whose it could be.
func (n NeededFor) Early() bool { return n == NeededForUsers || n == NeededForActivation }

// UnitNamePattern is of a unit's whole name, of the kinds that can be restarted: with no
// option's dash in front, nor what systemctl would take for a pattern.
const UnitNamePattern = `^[A-Za-z0-9:_.\\@][A-Za-z0-9:_.\\@-]*\.(service|socket|target|timer|path|mount)$`

var unitName = regexp.MustCompile(UnitNamePattern)

// IsUnitName says whether name is a unit that a secret may restart.
func IsUnitName(name string) bool { return len(name) <= MaxUnitName && unitName.MatchString(name) }

// Validate checks everything about a loosening that needs no context.
func (l *Loosening) Validate() error {
	if l.Type != TypeLoosening {
		return invalid("type is %q, want %q", clip(l.Type), TypeLoosening)
	}
	if err := validateSubject(l.Fleet, l.Machine, l.Profile); err != nil {
		return err
	}
	switch l.Action {
	case LoosenRetry:
		if _, err := ParseDigest(string(l.Digest)); err != nil {
			return err
		}
	case LoosenFreshness:
		if l.Digest != "" {
			return invalid("action %q is about no generation", LoosenFreshness)
		}
	default:
		return invalid("action %q: this version knows %q and %q", clip(l.Action), LoosenRetry, LoosenFreshness)
	}
	if len(l.Reason) > MaxLooseningReason {
		return invalid("a reason of %d bytes, at most %d", len(l.Reason), MaxLooseningReason)
	}
	if !l.Issued.Before(l.Expires) {
		return invalid("it expires before it is issued")
	}
	return nil
}
