//go:build !darwin

package agent

// systemRunDir has what is of one boot only.
const systemRunDir = "/run"
