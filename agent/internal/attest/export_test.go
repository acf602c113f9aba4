package attest

// Add takes in the file of one release.
var Add = (*Newest).add
