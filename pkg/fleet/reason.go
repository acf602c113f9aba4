package fleet

// ReasonCode is a stable name for why a host is where it is.
type ReasonCode string

// The reason codes. Refusals of documents use the code of the sentinel in
// pkg/release.
const (
	ReasonUpToDate          ReasonCode = "up-to-date"
	ReasonNothingDesired    ReasonCode = "nothing-desired"
	ReasonNewGeneration     ReasonCode = "new-generation"
	ReasonRevert            ReasonCode = "revert"
	ReasonObserve           ReasonCode = "mode-observe"
	ReasonPaused            ReasonCode = "paused"
	ReasonRefused           ReasonCode = "document-refused"
	ReasonFailedBefore      ReasonCode = "failed-before"
	ReasonOperatorRefused   ReasonCode = "rolled-back-by-operator"
	ReasonFetchFailed       ReasonCode = "fetch-failed"
	ReasonBuildFailed       ReasonCode = "build-failed"
	ReasonSecretsFailed     ReasonCode = "secrets-failed"
	ReasonActivationFailed  ReasonCode = "activation-failed"
	ReasonActivationHung    ReasonCode = "activation-hung"
	ReasonActivationUnknown ReasonCode = "activation-interrupted"
	ReasonVerifying         ReasonCode = "verifying"
	ReasonNotVerified       ReasonCode = "not-verified"
	ReasonProbeFailed       ReasonCode = "probe-failed"
	ReasonInconclusive      ReasonCode = "inconclusive"
	ReasonUnreachable       ReasonCode = "coordinator-unreachable"
	ReasonAwaitingAck       ReasonCode = "awaiting-acknowledgement"
	ReasonRollbackFailed    ReasonCode = "rollback-failed"
	ReasonCrashRecovery     ReasonCode = "crash-recovery"
	ReasonBackoff           ReasonCode = "waiting-to-retry"
	ReasonClock             ReasonCode = "clock-wrong"
	ReasonExpiring          ReasonCode = "expiring"
	ReasonBanned            ReasonCode = "banned"
	ReasonDuplicate         ReasonCode = "duplicate-instance"
	ReasonIdentity          ReasonCode = "identity-refused"
	ReasonInternal          ReasonCode = "internal-error"
	ReasonAppliedByHand     ReasonCode = "applied-by-hand"
	ReasonTrustReset        ReasonCode = "trust-reset"
	// ReasonDiskFull: this host's disk has no room for what is to be done.
	ReasonDiskFull ReasonCode = "disk-full"
	// ReasonJournalRecovered: a damaged journal was given up on a host.
	ReasonJournalRecovered ReasonCode = "journal-recovered"
	// ReasonRestoredOlder: the coordinator knows less than it once did.
	ReasonRestoredOlder ReasonCode = "coordinator-restored-older"
	// ReasonOverridden: something else runs, or boots, than what was activated last.
	ReasonOverridden ReasonCode = "overridden"
	// ReasonCorrecting: the host goes back to what was activated last, from what somebody
	// made of it by hand.
	ReasonCorrecting ReasonCode = "correcting"
	// ReasonCorrectionFailed: that did not work, which is not held against the generation.
	ReasonCorrectionFailed ReasonCode = "correction-failed"
	// ReasonQuarantined: the agent died each time that it worked on the generation.
	ReasonQuarantined ReasonCode = "quarantined"
	// ReasonAgentMissing: after the activation no agent would be started on the host.
	ReasonAgentMissing ReasonCode = "agent-missing"
	// ReasonRebootAsk: the next generation is booted once a person at the machine says so.
	ReasonRebootAsk ReasonCode = "reboot-waits"
	// ReasonRebooting: the host is about to be rebooted.
	ReasonRebooting ReasonCode = "rebooting"
	// ReasonRollbackUnverified: the host went back, and what it went back to does not
	// prove to work.
	ReasonRollbackUnverified ReasonCode = "rollback-unverified"
	// ReasonBootFailed: the host came up with something else than what was to be booted.
	ReasonBootFailed ReasonCode = "boot-failed"
	// ReasonRebootNeeded: what runs is what is desired, but for what only a reboot
	// puts in place.
	ReasonRebootNeeded ReasonCode = "reboot-needed"
	// ReasonDegraded: what runs is what is desired, but for a part that the host can be
	// without and that failed.
	ReasonDegraded ReasonCode = "degraded"
	// What of a host keeps a home profile from being activated, as long as it is so:
	// its user is none of the host's; the home directory is not there, or not the
	// user's; home-manager is part of the system, which activates that home itself.
	ReasonNoUser       ReasonCode = "no-such-user"
	ReasonHomeUnusable ReasonCode = "home-unusable"
	ReasonHomeInSystem ReasonCode = "home-in-system"
	// ReasonNoSystem: no system of the kind runs that could be gone back to.
	ReasonNoSystem ReasonCode = "no-system"
	// ReasonAnotherProfile: it waits until it is known whether the change of the host's
	// system works.
	ReasonAnotherProfile ReasonCode = "another-profile"
	// What a person at a Mac has to permit the agent's program before a system of
	// nix-darwin may be activated, which would fail for it.
	ReasonNoAppManagement  ReasonCode = "no-app-management"
	ReasonNoFullDiskAccess ReasonCode = "no-full-disk-access"
	// ReasonConsoleNotice: the person at the console was told, and has time until it begins.
	ReasonConsoleNotice ReasonCode = "console-notice"
	// ReasonPostponed: the person at the console put it off.
	ReasonPostponed ReasonCode = "postponed"
	// ReasonOnBattery: it waits for mains power.
	ReasonOnBattery ReasonCode = "on-battery"
	// ReasonInUse: it waits until nobody uses the screen.
	ReasonInUse    ReasonCode = "in-use"
	ReasonStale    ReasonCode = "not-fresh"
	ReasonWithheld ReasonCode = "withheld"
	// The ways of a plugin to be of no use. None is blamed on a generation: the
	// host tries again, and a probe that a plugin can't make is inconclusive.
	ReasonPluginMissing       ReasonCode = "plugin-missing"
	ReasonPluginChecksum      ReasonCode = "plugin-checksum"
	ReasonPluginNotExecutable ReasonCode = "plugin-not-executable"
	ReasonPluginHandshake     ReasonCode = "plugin-handshake"
	ReasonPluginVersion       ReasonCode = "plugin-protocol-version"
	ReasonPluginCrashed       ReasonCode = "plugin-crashed"
	ReasonPluginHung          ReasonCode = "plugin-hung"
	ReasonPluginAnswer        ReasonCode = "plugin-answer"
	ReasonPluginBackoff       ReasonCode = "plugin-waits"
	// ReasonNotSeen and ReasonNotReported are said of a host, not by it: what
	// it last reported is not about what is desired.
	ReasonNotSeen     ReasonCode = "not-seen"
	ReasonNotReported ReasonCode = "not-reported"
)

// Reason explains a wait, a refusal or a failure to people.
type Reason struct {
	Code ReasonCode `json:"code"`
	// Message says what is the case.
	Message string `json:"message,omitempty"`
	// Hint says what to do next.
	Hint string `json:"hint,omitempty"`
}
