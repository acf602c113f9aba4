// Package zerotier makes and checks ZeroTier identities, and knows what follows
// from them: network ids under a controller, and the IPv6 addresses of members.
//
// An identity (type 0) is a key pair whose 40-bit address comes of a hash of
// the public half that wants 2 MB of memory and some milliseconds, and which
// only one key in fifteen satisfies. So an address can't be chosen, and making an
// identity is a search, which takes all processors for about a tenth of a second.
package zerotier
