// Package reconcile decides, for one profile, what the agent does next. It is
// pure: it reads no clock, file or network, so that every situation an agent
// can be in after any crash is a value that a test can make.
package reconcile
