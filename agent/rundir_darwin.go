package agent

// systemRunDir has what is of one boot only.
const systemRunDir = "/var/run"
