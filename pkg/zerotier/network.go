package zerotier

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
)

// Address is a node's: 40 bits.
type Address uint64

// ParseAddress reads the ten lower-case digits of a node's address.
func ParseAddress(s string) (Address, error) {
	var b [addressBytes]byte
	if len(s) != 2*addressBytes {
		return 0, fmt.Errorf("a ZeroTier address is ten hexadecimal digits, not %d characters: %w", len(s), ErrSyntax)
	}
	if err := decodeHex(b[:], []byte(s)); err != nil {
		return 0, fmt.Errorf("the ZeroTier address %q is %w", s, err)
	}
	var a Address
	for _, c := range b {
		a = a<<8 | Address(c)
	}
	if a.reserved() {
		return 0, fmt.Errorf("%s is %w: no node has it", a, ErrReserved)
	}
	return a, nil
}

// String is ten lower-case hexadecimal digits.
func (a Address) String() string { return fmt.Sprintf("%010x", uint64(a)) }

func (a Address) reserved() bool { return a == 0 || a>>32 == 0xff }

func (a Address) bytes() []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(a))[8-addressBytes:]
}

// NetworkID names a network: the address of its controller, and 24 bits that
// are not all zero.
type NetworkID uint64

// ParseNetworkID reads the sixteen lower-case digits of a network that has a
// controller.
func ParseNetworkID(s string) (NetworkID, error) {
	var b [8]byte
	if len(s) != 16 {
		return 0, fmt.Errorf("a ZeroTier network id is sixteen hexadecimal digits, not %d characters: %w", len(s), ErrSyntax)
	}
	if err := decodeHex(b[:], []byte(s)); err != nil {
		return 0, fmt.Errorf("the ZeroTier network id %q is %w", s, err)
	}
	n := NetworkID(binary.BigEndian.Uint64(b[:]))
	if n.Controller().reserved() {
		return 0, fmt.Errorf("the network %s would be of the controller %s, %w", n, n.Controller(), ErrReserved)
	}
	if n&networkMask == 0 {
		return 0, fmt.Errorf("the network id %s ends in six zeros, which no controller serves: %w", n, ErrSyntax)
	}
	return n, nil
}

// networkMask is of the bits that are not the controller's address.
const networkMask = 1<<24 - 1

// NewNetworkID draws the id of a network of a controller.
func NewNetworkID(random io.Reader, controller Address) (NetworkID, error) {
	if controller.reserved() {
		return 0, fmt.Errorf("making a ZeroTier network id: the controller %s is %w", controller, ErrReserved)
	}
	// A source that yields zeros for ever is broken, not unlucky.
	for range 8 {
		var b [3]byte
		if _, err := io.ReadFull(random, b[:]); err != nil {
			return 0, fmt.Errorf("making a ZeroTier network id: reading random bytes: %w", err)
		}
		if low := NetworkID(b[0])<<16 | NetworkID(b[1])<<8 | NetworkID(b[2]); low != 0 {
			return NetworkID(controller)<<24 | low, nil
		}
	}
	return 0, errors.New("making a ZeroTier network id: the source of random bytes yields only zeros")
}

// Controller is the address of the node that the network is served by.
func (n NetworkID) Controller() Address { return Address(n >> 24) }

// String is sixteen lower-case hexadecimal digits.
func (n NetworkID) String() string { return fmt.Sprintf("%016x", uint64(n)) }

// RFC4193 is the address of a member in the network's /88, which follows from
// the two ids; a network has it where v6AssignMode says rfc4193.
func (n NetworkID) RFC4193(a Address) netip.Prefix {
	b := append(make([]byte, 0, 16), 0xfd)
	b = binary.BigEndian.AppendUint64(b, uint64(n))
	b = append(append(b, 0x99, 0x93), a.bytes()...)
	return netip.PrefixFrom(netip.AddrFrom16([16]byte(b)), 88)
}

// SixPlane is the first address of a member's /80 in the network's /40, of
// which the member owns all; a network has it where v6AssignMode says 6plane.
func (n NetworkID) SixPlane(a Address) netip.Prefix {
	b := append(make([]byte, 0, 16), 0xfc)
	b = binary.BigEndian.AppendUint32(b, uint32(n>>32)^uint32(n)) //nolint:gosec // The low half is meant.
	b = append(append(b, a.bytes()...), 0, 0, 0, 0, 0, 1)
	return netip.PrefixFrom(netip.AddrFrom16([16]byte(b)), 40)
}
