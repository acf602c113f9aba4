// Package bech32 encodes private keys as age writes them: its library has no way to make
// one of given bytes.
package bech32

// Encode is BIP 173's form of data, in capitals, of an even number of groups or with zeros
// behind. prefix is in capitals. The caller clears what is secret.
func Encode(prefix string, data []byte) []byte {
	const digits = "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L"
	groups := make([]byte, 0, len(data)*8/5+1)
	defer func() { clear(groups) }()
	var pending, bits uint
	for _, b := range data {
		pending, bits = pending<<8|uint(b), bits+8
		for bits >= 5 {
			bits -= 5
			groups = append(groups, byte(pending>>bits&31))
		}
		pending &= 1<<bits - 1
	}
	if bits > 0 {
		groups = append(groups, byte(pending<<(5-bits)&31))
	}
	out := make([]byte, 0, len(prefix)+1+len(groups)+6)
	out = append(append(out, prefix...), '1')
	sum := uint32(1)
	step := func(v byte) {
		top := sum >> 25
		sum = sum&0x1ffffff<<5 ^ uint32(v)
		for i, g := range [5]uint32{0x3b6a57b2, 0x26508e6d, 0x1ea119fa, 0x3d4233dd, 0x2a1462b3} {
			if top>>i&1 == 1 {
				sum ^= g
			}
		}
	}
	// The checksum is over the prefix in lower case, high bits first.
	lower := []byte(prefix)
	for i, c := range lower {
		if c >= 'A' && c <= 'Z' {
			lower[i] = c + 'a' - 'A'
		}
	}
	for _, c := range lower {
		step(c >> 5)
	}
	step(0)
	for _, c := range lower {
		step(c & 31)
	}
	for _, g := range groups {
		step(g)
		out = append(out, digits[g])
	}
	for range 6 {
		step(0)
	}
	sum ^= 1
	for i := range 6 {
		out = append(out, digits[sum>>(5*(5-i))&31])
	}
	return out
}
