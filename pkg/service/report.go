package service

import (
	"fmt"
	"io"
)

// Report is what a command about a service did, for people and for scripts.
type Report struct {
	Service string   `json:"service"`
	Did     []string `json:"did"`
	// Next is what a person may want to do now.
	Next []string `json:"next,omitempty"`
}

// Write writes the report as text.
func (r Report) Write(w io.Writer) error {
	for _, line := range r.Did {
		if _, err := fmt.Fprintln(w, line); err != nil {
			return fmt.Errorf("writing what was done: %w", err)
		}
	}
	for _, line := range r.Next {
		if _, err := fmt.Fprintln(w, "  next: "+line); err != nil {
			return fmt.Errorf("writing what was done: %w", err)
		}
	}
	return nil
}

// Report tells what installing did.
func (i Installed) Report(service string) Report {
	r := Report{Service: service}
	say := func(format string, args ...any) { r.Did = append(r.Did, fmt.Sprintf(format, args...)) }
	switch {
	case i.New:
		say("installed %s", i.File)
	case i.Changed:
		say("replaced %s: it was of other settings, or of another version", i.File)
	default:
		say("%s is as it should be", i.File)
	}
	if i.Copied {
		say("copied this program to %s", i.Program)
	}
	if i.Removed != "" {
		say("removed the copy that ran before, %s", i.Removed)
	}
	switch {
	case i.Started:
		say("started %s", service)
	case i.Restarted:
		say("restarted %s", service)
	case i.State.Running || i.State.Starting:
		say("%s runs, and nothing was to be done", service)
	default:
		say("%s is not started", service)
		r.Next = append(r.Next, service+" start")
	}
	return r
}

// Report tells what uninstalling did.
func (u Uninstalled) Report(service string) Report {
	r := Report{Service: service, Did: []string{fmt.Sprintf("stopped %s, and removed %s", service, u.File)}}
	if u.Program != "" {
		r.Did = append(r.Did, "removed the copy of the program, "+u.Program)
	}
	return r
}

// Advice says in a sentence how a service is, and what to do about it where it
// does not run.
func (s State) Advice(service string) (text, advice string) {
	switch {
	case !s.Installed:
		return service + " is not installed as a service", service + " install"
	case s.Failed && s.Starting:
		return fmt.Sprintf("the service %s failed, and is started again and again: %s", service, s.Why), "look at its log: " + logCommand(service)
	case s.Failed:
		return fmt.Sprintf("the service %s failed: %s", service, s.Why), "look at its log (" + logCommand(service) + "), then: " + service + " start"
	case s.Starting:
		return "the service " + service + " is starting", ""
	case s.Running:
		text = "the service " + service + " runs"
		if s.Text != "" {
			text += ": " + s.Text
		}
		return text, ""
	}
	return "the service " + service + " is stopped", service + " start"
}
