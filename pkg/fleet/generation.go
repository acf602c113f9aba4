package fleet

import (
	"encoding/json"
	"fmt"
	"time"
)

// Limits on documents. Decoders refuse what goes beyond.
const (
	MaxDocumentBytes = 256 << 10
	MaxProbes        = 64
	MaxRevertTo      = 16
	MaxSecrets       = 1024
	MaxSecretBytes   = 1 << 20
	MaxNumberJump    = 1000
	// MaxKeepGenerations is what a host remembers of a profile.
	MaxKeepGenerations     = 16
	DefaultKeepGenerations = 2
	DefaultExpiry          = 180 * 24 * time.Hour
	DefaultActivation      = 10 * time.Minute
	DefaultVerify          = 2 * time.Minute
)

// Duration is a time.Duration that travels as text, such as "1m30s".
type Duration time.Duration

// MarshalJSON writes the text form.
func (d Duration) MarshalJSON() ([]byte, error) {
	return json.Marshal(time.Duration(d).String())
}

// UnmarshalJSON reads the text form; negative durations are refused.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("duration: want text such as \"90s\": %w", err)
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("duration %q: want text such as \"90s\"", clip(s))
	}
	if v < 0 {
		return fmt.Errorf("duration %q: must not be negative", clip(s))
	}
	*d = Duration(v)
	return nil
}

// Or returns d, or def where d is 0.
func (d Duration) Or(def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return time.Duration(d)
}

// Generation is the desired state of one profile of one machine: the payload
// of a signed document.
type Generation struct {
	Type     string      `json:"type"` // TypeGeneration
	Fleet    FleetID     `json:"fleet"`
	Machine  MachineName `json:"machine"`
	Profile  ProfileName `json:"profile"`
	Number   Number      `json:"number"`
	Release  ReleaseID   `json:"release"`
	Issued   time.Time   `json:"issued"`
	Expires  time.Time   `json:"expires"`
	Critical []string    `json:"critical,omitempty"`
	Source   Source      `json:"source"`
	// Secrets names the secrets manifest; nil where there are no secrets.
	Secrets *SecretsRef `json:"secrets,omitempty"`
	Probes  []Probe     `json:"probes,omitempty"`
	Policy  Policy      `json:"policy"`
	// Plugins pins the external drivers and probes that source and probes name.
	// Critical MUST list "plugins" then.
	Plugins []Plugin `json:"plugins,omitempty"`
	// Reach is about who else can tell what is out of reach; nil for nobody.
	Reach *Reach `json:"reach,omitempty"`
	// RevertTo lists earlier generations that the coordinator may send the
	// host back to on its own.
	RevertTo []Ref `json:"revert_to,omitempty"`
}

// Document types.
const (
	TypeGeneration = "generation"
	TypeSecrets    = "secrets"
	TypeRoot       = "root"
	TypeLoosening  = "loosening"
	TypeReport     = "report"
	TypeLook       = "look"
	TypeClosure    = "closure"
	TypeFreshness  = "freshness"
)

// BlobRef names a content-addressed blob with its exact size in bytes.
type BlobRef struct {
	Digest Digest `json:"digest"`
	Size   uint64 `json:"size"`
}

// SecretsRef names a secrets manifest by the digest of its signed payload.
type SecretsRef struct {
	Digest Digest `json:"digest"`
}

// ProbeKind is the kind of a probe.
type ProbeKind string

// The kinds of probes.
const (
	ProbeExec    ProbeKind = "exec"
	ProbeHTTP    ProbeKind = "http"
	ProbeTCP     ProbeKind = "tcp"
	ProbeSystemd ProbeKind = "systemd"
	ProbePlugin  ProbeKind = "plugin"
)

// Probe is one health check.
type Probe struct {
	Name string    `json:"name"`
	Kind ProbeKind `json:"kind"`
	// Argv is for exec: passes on exit code 0; 75 (EX_TEMPFAIL) is inconclusive.
	Argv []string `json:"argv,omitempty"`
	// URL is for http: passes on a status in 200–299, or Status where set, and,
	// where Contains is set, a body (its first 64 KiB) that contains it.
	URL      string `json:"url,omitempty"`
	Status   int    `json:"status,omitempty"`
	Contains string `json:"contains,omitempty"`
	// Address is for tcp, host:port: passes when a connection opens.
	Address string `json:"address,omitempty"`
	// Unit is for systemd: passes when the unit is active.
	Unit string `json:"unit,omitempty"`
	// Plugin is for plugin: the name of a pinned probe; Config, a JSON object of
	// at most MaxPluginConfigBytes, is handed to it. Verdicts are the plugin's.
	Plugin PluginName      `json:"plugin,omitempty"`
	Config json.RawMessage `json:"config,omitempty"`
	// Timeout bounds one attempt; default 10s.
	Timeout Duration `json:"timeout,omitempty"`
	// Interval is the pause between attempts; default 1s.
	Interval Duration `json:"interval,omitempty"`
}

// Policy is the signed policy of a generation.
type Policy struct {
	// Mode, default manage. Moving from observe to manage is a loosening, and
	// so travels signed.
	Mode Mode `json:"mode,omitempty"`
	// ActivationDeadline bounds the activation, and apart from it the rollback.
	ActivationDeadline Duration `json:"activation_deadline,omitempty"`
	// VerifyDeadline bounds probes and reaching the coordinator.
	VerifyDeadline Duration `json:"verify_deadline,omitempty"`
	// Freshness is how old the newest freshness statement may be for an
	// activation to start; 0 lets it start without one.
	Freshness Duration `json:"freshness,omitempty"`
	// OnInconclusive says what follows an inconclusive verification; default
	// rollback (which holds where the host was offline before).
	OnInconclusive OnInconclusive `json:"on_inconclusive,omitempty"`
	// Reboot says whether the host may be rebooted for what only a boot puts in place;
	// default RebootNever.
	Reboot RebootPolicy `json:"reboot,omitempty"`
	// Drift says what follows when something else runs, or boots, than what was activated;
	// default DriftReport.
	Drift DriftPolicy `json:"drift,omitempty"`
	// Agent says whether the agent belongs to the host after this generation; default
	// AgentStays.
	Agent AgentPolicy `json:"agent,omitempty"`
	// KeepGenerations is how many of the newest verified generations stay built on the
	// host, what runs included: at most MaxKeepGenerations, default
	// DefaultKeepGenerations, which are what runs and what it would go back to.
	KeepGenerations uint32 `json:"keep_generations,omitempty"`
	// KeepFor is for how long a verified generation stays built beyond that.
	KeepFor Duration `json:"keep_for,omitempty"`
	// Console is what is owed to the person at the console. Critical MUST list
	// CriticalConsole where that is anything.
	Console ConsolePolicy `json:"console,omitzero"`
}

// OnInconclusive says what follows an inconclusive verification.
type OnInconclusive string

// What may follow.
const (
	// InconclusiveRollback rolls back if the host was online before the
	// activation, and keeps otherwise.
	InconclusiveRollback OnInconclusive = "rollback"
	// InconclusiveKeep keeps the new generation and goes on verifying.
	InconclusiveKeep OnInconclusive = "keep"
)

// RebootPolicy says whether a host may be rebooted.
type RebootPolicy string

// When a host is rebooted.
const (
	// RebootNever activates all that a switch can put in place, and says that the rest
	// waits for a reboot.
	RebootNever RebootPolicy = "never"
	// RebootAsk activates what needs a boot by one that is verified, once a person at the
	// machine has said so.
	RebootAsk RebootPolicy = "ask"
	// RebootAuto does that by itself, and reboots the host too where no other way leads
	// back: it comes up with nobody at it.
	RebootAuto RebootPolicy = "auto"
)

// DriftPolicy says what becomes of changes that are made on a host by hand.
type DriftPolicy string

// What becomes of them.
const (
	// DriftReport says that the host was changed, and leaves it as it is until the next
	// generation.
	DriftReport DriftPolicy = "report"
	// DriftCorrect activates once more what was activated last.
	DriftCorrect DriftPolicy = "correct"
)

// AgentPolicy says whether a generation may leave the host without an agent.
type AgentPolicy string

// What may become of the agent.
const (
	// AgentStays refuses a generation after which the agent's service would not be
	// started: nobody would ever again take the host anywhere.
	AgentStays AgentPolicy = "stays"
	// AgentLeaves permits that: the host leaves the fleet.
	AgentLeaves AgentPolicy = "leaves"
)

// SecretsManifest binds secrets to a machine and profile: the payload of a
// document signed by the secrets role.
type SecretsManifest struct {
	Type     string        `json:"type"` // TypeSecrets
	Fleet    FleetID       `json:"fleet"`
	Machine  MachineName   `json:"machine"`
	Profile  ProfileName   `json:"profile"`
	Issued   time.Time     `json:"issued"`
	Expires  time.Time     `json:"expires"`
	Critical []string      `json:"critical,omitempty"`
	Entries  []SecretEntry `json:"entries"`
	// Floors are the lowest versions of secrets that the host may have from now on,
	// whatever it goes back to; at most MaxFloors. Of a generation whose secrets are below,
	// it has the newest that are not, or none. No entry is below its floor. Critical MUST
	// list CriticalFloors where there are any.
	Floors map[SecretName]uint64 `json:"floors,omitempty"`
	// RevokedBefore has no person and no coordinator send the host back to a generation
	// that was issued before, because values in it are revoked; zero for never. The way
	// back from an activation that fails stays open: a host that is lost keeps no secret.
	// Not after Issued. Critical MUST list CriticalRevokedBefore where it is there.
	RevokedBefore time.Time `json:"revoked_before,omitzero"`
}

// SecretEntry is one secret.
type SecretEntry struct {
	Name    SecretName `json:"name"`
	Version uint64     `json:"version"`
	// Format is what the ciphertext is; default an age file. Critical MUST list
	// CriticalSecretFormat where it is another one.
	Format SecretFormat `json:"format,omitempty"`
	// Digest and Size are those of the ciphertext.
	Digest Digest `json:"digest"`
	Size   uint64 `json:"size"`
	// Path is relative to the secrets directory, slash-separated.
	Path string `json:"path"`
	// Also are other paths at which it is looked for, at most MaxAlso: links to Path.
	// Critical MUST list CriticalAlso where there are any.
	Also  []string `json:"also,omitempty"`
	Owner string   `json:"owner,omitempty"` // default: the agent's user
	Group string   `json:"group,omitempty"` // default: the agent's group
	Mode  uint32   `json:"mode"`            // permission bits, at most 0o777
	// NeededFor says when the secret has to be there; default NeededForServices.
	// Critical MUST list CriticalNeededFor where it is another one.
	NeededFor NeededFor `json:"needed_for,omitempty"`
	// RestartUnits are units of systemd that are restarted, where they run, once the
	// host has another content of the secret; at most MaxRestartUnits. Critical MUST
	// list CriticalRestartUnits where there are any.
	RestartUnits []string `json:"restart_units,omitempty"`
}

// SecretFormat is what a secret's ciphertext is.
type SecretFormat string

// FormatSops is a document of sops in its "binary" form, as it is in the repository's
// tree: whoever publishes it needs no key that opens it.
const FormatSops SecretFormat = "sops"

// NeededFor says when a secret has to be there.
type NeededFor string

// When a secret has to be there.
const (
	// NeededForServices is before services start; users are made by then.
	NeededForServices NeededFor = "services"
	// NeededForUsers is before users are made, whose passwords it may be: it is below
	// for-users in the secrets directory, and root's.
	NeededForUsers NeededFor = "users"
	// NeededForActivation is before activation scripts run, at a boot too: it is below
	// activation in the secrets directory, and root's.
	NeededForActivation NeededFor = "activation"
)

// What a secrets manifest lists as critical, so that an agent that does not know it
// holds: it would put passwords where nobody looks for them, leave a service with a
// secret that was replaced, or take for damaged what it can't read.
const (
	CriticalSecretFormat = "entries.format"
	CriticalNeededFor    = "entries.needed_for"
	CriticalRestartUnits = "entries.restart_units"
	CriticalAlso         = "entries.also"
	// An agent that does not know these would bring back what was revoked.
	CriticalFloors        = "floors"
	CriticalRevokedBefore = "revoked_before"
)

// MaxFloors bounds the floors of a manifest: of secrets that it has, and had once.
const MaxFloors = 4096

// Limits on a secret.
const (
	MaxAlso         = 4
	MaxRestartUnits = 16
	// MaxUnitName is systemd's own, in bytes.
	MaxUnitName = 255
)

// Loosening makes one host refuse less: the payload of a signed, expiring
// document. Each document works once per host.
type Loosening struct {
	Type    string      `json:"type"` // TypeLoosening
	Fleet   FleetID     `json:"fleet"`
	Machine MachineName `json:"machine"`
	Profile ProfileName `json:"profile"`
	Action  string      `json:"action"` // LoosenRetry or LoosenFreshness
	// Digest of the generation concerned; empty for LoosenFreshness.
	Digest Digest `json:"digest,omitempty"`
	// Reason for people, at most MaxLooseningReason bytes.
	Reason   string    `json:"reason,omitempty"`
	Issued   time.Time `json:"issued"`
	Expires  time.Time `json:"expires"`
	Critical []string  `json:"critical,omitempty"`
}

// The actions of loosenings.
const (
	// LoosenRetry forgets that a generation failed or was refused.
	LoosenRetry = "retry"
	// LoosenFreshness lets activations start without a fresh statement, until
	// the document expires.
	LoosenFreshness = "freshness"
)

// MaxLooseningReason bounds the reason of a loosening, in bytes.
const MaxLooseningReason = 512
