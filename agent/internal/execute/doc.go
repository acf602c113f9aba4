// Package execute carries out actions in a process of their own, the runner,
// that outlives the agent: an activation may well end the agent's own service. Where
// there is systemd or launchd, the runner is a service of its own, so that whatever is
// done with the agent's does not meet it.
//
// Each run has a directory:
//
//   - action.json: what to do.
//   - lock: held by the runner for its whole life. The executor takes it and
//     hands it over open, so that there is no moment between in which the run
//     looks dead.
//   - started: on the disk, with the directory itself, before the first step.
//   - log: output of the steps and of the runner, bounded. Steps write to the
//     file itself: a pipe would kill or hang what outlives the runner.
//   - result.json: how it ended, written atomically.
//
// So anyone can say, at any time and after any crash: locked means running, a
// result means done, started without a result means lost (nobody knows how much
// was done), and anything else that nothing was done.
//
// The runner is in a session of its own and each program in a process group of
// its own. A program that starts a service has to put it into a session of its
// own (setsid) and give it an output of its own; such a service is left alone
// whatever happens to the run.
package execute
