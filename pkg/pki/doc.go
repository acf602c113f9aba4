// Package pki holds a fleet's identities: its certificate authority, the
// mTLS certificates with SPIFFE ids (SPIFFE-ID and X509-SVID standards) of
// hosts, operators and coordinators, the TLS configurations that check them,
// join strings, and private keys encrypted with age at rest.
package pki
