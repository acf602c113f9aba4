package crashpoint

// The points. What is the case at each, the registry below says.
const (
	_ Point = iota

	// Writing files and links, in any program; HitCaller says for whom.
	FileBegin
	FileWritten
	FileSynced
	FileRenamed
	FileDone
	LinkBegin
	LinkMade
	LinkRenamed
	LinkDone
	DirBegin
	DirSynced
	DirSwapped
	DirRenamed
	DirDone

	// Journal of the agent.
	JournalMade
	JournalOpened
	JournalAppend
	JournalWritten
	JournalAppended
	JournalCompact
	JournalCompacted

	// Enrolment.
	EnrolAnswered
	EnrolRootsKept
	EnrolCertificateKept
	EnrolJoinRemove
	EnrolDone
	RenewCANoted

	// What is desired, and what it needs.
	DesiredKept
	DocumentRemove
	DocumentRemoved
	FetchOpened
	FetchPart
	FetchWhole
	FetchSynced
	FetchRenamed
	FetchDone
	FetchedRemove
	FetchedRemoved
	PluginInstall
	PluginInstalled
	BundleState
	BundleUnpack
	BundleUnpacked
	BundleBuilt
	BundleSweep
	BundleRemove
	BundleUnnamed
	BundleRemoved
	SecretsPrepare
	SecretsFilled
	SecretsPrepared
	SecretsRemove
	SecretsUnnamed
	SecretsRemoved
	SecretsInMemory
	SecretsMounted

	// Activations.
	RunMade
	RunLocked
	RunStarted
	RunEnded
	RunRemove
	RunRemoved

	// The process that carries an activation out.
	RunnerBegin
	RunnerBegan
	RunnerStep
	RunnerProgram
	RunnerStepped
	RunnerEnd
	RunnerDone

	// The dead-man switch.
	SwitchOrdered
	SwitchArmed
	VerdictLinked
	VerdictLeft
	SwitchDone
	SwitchFired
	SwitchBack

	// Reports.
	ReportSigned
	ReportAcknowledged

	// Store of the coordinator.
	StoreMade
	StoreWrite
	StoreWritten
	EventWrite
	EventWritten
	KitApplied
	RestorePlace
	RestorePlaced
	StartRecorded
	CertificateIssued

	// Blobs of the coordinator.
	BlobsOpened
	BlobOpened
	BlobPart
	BlobWhole
	BlobSynced
	BlobRenamed
	BlobDone

	// fleetctl.
	InitStaged
	InitMove
	InitMoved
	InitMarked
	InitDone
	TokenKept
	TokenMade
	HostKeysKept
	PublishSecrets
	PublishSigned
	PublishRecorded
	PublishUploaded
	PublishStaged
	PublishCommitted
	PublishMarked
	RetryMade
	RollbackMade
	BanKept
	BanMade
	CAMoved
)

// registry describes the points. Nothing in a program without crash points
// refers to it, so that it is not in there.
var registry = [...]Info{
	FileBegin:            {"file.begin", Any, "A file is about to be replaced."},
	FileWritten:          {"file.written", Any, "Its new content lies beside it, not synced."},
	FileSynced:           {"file.synced", Any, "The new content is durable beside the old."},
	FileRenamed:          {"file.renamed", Any, "The new content is in place; the directory is not synced."},
	FileDone:             {"file.done", Any, "The new content is in place, durable, and nobody was told."},
	LinkBegin:            {"link.begin", Any, "A link is about to be pointed elsewhere, or removed."},
	LinkMade:             {"link.made", Any, "The new link lies beside the old."},
	LinkRenamed:          {"link.renamed", Any, "The new link is in place, or the old one gone; the directory is not synced."},
	LinkDone:             {"link.done", Any, "The link's change is durable, and nobody was told."},
	DirBegin:             {"dir.begin", Any, "A directory is whole beside its place, and not synced."},
	DirSynced:            {"dir.synced", Any, "It is durable beside its place."},
	DirSwapped:           {"dir.swapped", Any, "It changed places with an older one; the directory above is not synced."},
	DirRenamed:           {"dir.renamed", Any, "It was renamed into an empty place; the directory above is not synced."},
	DirDone:              {"dir.done", Any, "It is in place, durable; an older one may still lie beside it."},
	JournalMade:          {"journal.made", Agent, "The journal's file is there, whole, and its directory not synced."},
	JournalOpened:        {"journal.opened", Agent, "The journal was folded; nothing was done with it."},
	JournalAppend:        {"journal.append", Agent, "Records of this kind are about to be written."},
	JournalWritten:       {"journal.written", Agent, "They are written, not synced."},
	JournalAppended:      {"journal.appended", Agent, "They are durable, and nothing followed from it."},
	JournalCompact:       {"journal.compact", Agent, "The journal is about to be replaced by a shorter one."},
	JournalCompacted:     {"journal.compacted", Agent, "It was replaced, and nothing appended to it since."},
	EnrolAnswered:        {"enrol.answered", Agent, "The coordinator took the token; nothing of its answer is kept."},
	EnrolRootsKept:       {"enrol.roots-kept", Agent, "The trust roots are kept, the certificate is not."},
	EnrolCertificateKept: {"enrol.certificate-kept", Agent, "The certificate is kept, its binding and the used join string are as before."},
	EnrolJoinRemove:      {"enrol.join-remove", Agent, "The certificate counts; the used join string is still there."},
	EnrolDone:            {"enrol.done", Agent, "The host is enrolled, and nobody was told."},
	RenewCANoted:         {"renew.ca-noted", Agent, "It is noted that the certificate to come is of another CA; the one of before is in use."},
	DesiredKept:          {"desired.kept", Agent, "The documents of an answer are kept, the pointers are not moved."},
	DocumentRemove:       {"desired.remove", Agent, "A document that nobody needs is about to be removed."},
	DocumentRemoved:      {"desired.removed", Agent, "It was removed."},
	FetchOpened:          {"fetch.opened", Agent, "The file for a partial blob is there."},
	FetchPart:            {"fetch.part", Agent, "Some bytes of a blob came, not synced."},
	FetchWhole:           {"fetch.whole", Agent, "All bytes are there and are what was signed, not synced."},
	FetchSynced:          {"fetch.synced", Agent, "They are durable under the name of a partial blob."},
	FetchRenamed:         {"fetch.renamed", Agent, "They have the name of a whole blob; the directory is not synced."},
	FetchDone:            {"fetch.done", Agent, "The blob is durable, and nobody was told."},
	PluginInstall:        {"plugin.install", Agent, "A plugin's executable lies durable in their store, under a name that nothing looks for."},
	PluginInstalled:      {"plugin.installed", Agent, "It is in place; the directory is not synced."},
	FetchedRemove:        {"fetch.remove", Agent, "A blob that nobody needs is about to be removed."},
	FetchedRemoved:       {"fetch.removed", Agent, "It was removed."},
	BundleState:          {"bundle.state", Agent, "The state directory of a profile is there, not yet given to its user."},
	BundleUnpack:         {"bundle.unpack", Agent, "An empty directory waits for a bundle's content."},
	BundleUnpacked:       {"bundle.unpacked", Agent, "The bundle is whole beside its place, not synced."},
	BundleBuilt:          {"bundle.built", Agent, "The bundle is in the store, and not on record."},
	BundleSweep:          {"bundle.sweep", Agent, "A half-unpacked or half-removed bundle is about to be removed."},
	BundleRemove:         {"bundle.remove", Agent, "A bundle that nobody needs is about to lose its name."},
	BundleUnnamed:        {"bundle.unnamed", Agent, "It lost its name; the directory is not synced."},
	BundleRemoved:        {"bundle.removed", Agent, "It was removed."},
	SecretsPrepare:       {"secrets.prepare", Agent, "What an earlier attempt left is gone."},
	SecretsFilled:        {"secrets.filled", Agent, "All secrets are decrypted beside their place, not synced."},
	SecretsPrepared:      {"secrets.prepared", Agent, "They are in place, and not on record."},
	SecretsRemove:        {"secrets.remove", Agent, "Secrets that nobody needs are about to be removed."},
	SecretsUnnamed:       {"secrets.unnamed", Agent, "They lost their name, and are still there."},
	SecretsRemoved:       {"secrets.removed", Agent, "They were removed; the directory is not synced."},
	SecretsInMemory:      {"secrets.in-memory", Agent, "A file system in memory has them, and is nowhere yet."},
	SecretsMounted:       {"secrets.mounted", Agent, "It is in place; what was on the disk is beneath it still."},
	RunMade:              {"run.made", Agent, "A run's directory is there, empty."},
	RunLocked:            {"run.locked", Agent, "The agent holds the run's lock; what is to run is not written."},
	RunStarted:           {"run.started", Agent, "The runner lives, and the agent's own part is not done."},
	RunEnded:             {"run.ended", Agent, "The run's result was read, and is not on record."},
	RunRemove:            {"run.remove", Agent, "A run that nobody needs is about to be removed."},
	RunRemoved:           {"run.removed", Agent, "It was removed."},
	RunnerBegin:          {"runner.begin", Runner, "The runner holds its lock; that it began is not written."},
	RunnerBegan:          {"runner.began", Runner, "That it began is durable; no step was."},
	RunnerStep:           {"runner.step", Runner, "A step is about to be carried out."},
	RunnerProgram:        {"runner.program", Runner, "A step's program runs."},
	RunnerStepped:        {"runner.stepped", Runner, "A step ended; its result is in memory only."},
	RunnerEnd:            {"runner.end", Runner, "All steps ended; the result is not written."},
	RunnerDone:           {"runner.done", Runner, "The result is durable; the runner still lives."},
	SwitchOrdered:        {"switch.ordered", Agent, "The dead-man switch has its order, durably; nothing says that it waits."},
	SwitchArmed:          {"switch.armed", Agent, "It waits; nothing was begun yet that it waits for."},
	VerdictLinked:        {"verdict.linked", Any, "A verdict on an activation is in place; the directory is not synced."},
	VerdictLeft:          {"verdict.left", Any, "It is durable, and nothing followed from it."},
	SwitchDone:           {"switch.done", Agent, "The order is removed: its activation is over on record."},
	SwitchFired:          {"switch.fired", Switch, "The switch has decided to go back, durably, and did nothing yet."},
	SwitchBack:           {"switch.back", Switch, "It has carried out the way back and recorded that."},
	ReportSigned:         {"report.signed", Agent, "A report is signed and about to be sent."},
	ReportAcknowledged:   {"report.acknowledged", Agent, "The coordinator has it; the acknowledgement is not on record."},
	StoreMade:            {"store.made", Coordinator, "The new store's file is there; its directory is not synced."},
	StoreWrite:           {"store.write", Coordinator, "A transaction is applied in memory; HitFor has its first key's kind."},
	StoreWritten:         {"store.written", Coordinator, "It is durable, and nobody was told."},
	EventWrite:           {"event.write", Coordinator, "A change with its events waits to be written; HitFor has the first event's kind."},
	EventWritten:         {"event.written", Coordinator, "Change and events are durable, and nobody was told."},
	KitApplied:           {"kit.applied", Coordinator, "The kit's machines, operators and bans are in the store; that they are is not."},
	RestorePlace:         {"restore.place", Coordinator, "What a backup holds is checked and on the disk; the store is not in its place."},
	RestorePlaced:        {"restore.placed", Coordinator, "The store is in its place; its directory is not synced."},
	StartRecorded:        {"start.recorded", Coordinator, "The start is an event; nothing listens yet."},
	CertificateIssued:    {"ca.issued", Coordinator, "A certificate is signed, and nobody has it."},
	BlobsOpened:          {"blob.store", Blob, "The blob store's directories are there."},
	BlobOpened:           {"blob.opened", Blob, "The file for an upload is there."},
	BlobPart:             {"blob.part", Blob, "Some bytes of it came, not synced."},
	BlobWhole:            {"blob.whole", Blob, "All bytes came and have the digest, not synced."},
	BlobSynced:           {"blob.synced", Blob, "They are durable under the name of an upload."},
	BlobRenamed:          {"blob.renamed", Blob, "They have the name of a blob; the directory is not synced."},
	BlobDone:             {"blob.done", Blob, "The blob is durable, and nobody was told."},
	InitStaged:           {"init.staged", Publish, "The whole repository lies in the staging directory."},
	InitMove:             {"init.move", Publish, "A part of it is about to be moved into place."},
	InitMoved:            {"init.moved", Publish, "The part is in place, and the directory not synced."},
	InitMarked:           {"init.marked", Publish, "The repository is in place; the marker beside the operator's identity is still there."},
	InitDone:             {"init.done", Publish, "The fleet is made, and nobody was told."},
	TokenKept:            {"token.kept", Publish, "A join string is kept; the coordinator has not heard of it."},
	TokenMade:            {"token.made", Publish, "The coordinator knows the token; nobody was shown it."},
	HostKeysKept:         {"publish.host-keys", Publish, "Keys that hosts showed are recorded."},
	PublishSecrets:       {"publish.secrets", Publish, "New ciphertexts are in the repository; nothing is signed."},
	PublishSigned:        {"publish.signed", Publish, "All documents are signed, and written nowhere."},
	PublishRecorded:      {"publish.recorded", Publish, "The release is in the repository; the coordinator has not heard of it."},
	PublishUploaded:      {"publish.uploaded", Publish, "A blob of it is at the coordinator."},
	PublishStaged:        {"publish.staged", Publish, "All of it is at the coordinator, where no host sees it."},
	PublishCommitted:     {"publish.committed", Publish, "Hosts see it; the repository does not know yet."},
	PublishMarked:        {"publish.marked", Publish, "The repository knows; nobody was told."},
	RetryMade:            {"retry.made", Publish, "The coordinator has a document that allows a retry; nobody was told."},
	RollbackMade:         {"rollback.made", Publish, "The coordinator has an operator's rollback; nobody was told."},
	BanKept:              {"ban.kept", Publish, "The repository has a ban or its end that the coordinator may not have."},
	CAMoved:              {"ca.moved", Publish, "A file of the CA to come, its key or its certificate, is in the place of the one that issues; the other may not be."},
	BanMade:              {"ban.made", Publish, "The coordinator has a ban or its end that the repository may not have."},
}
