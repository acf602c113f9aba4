package zerotier

import (
	"crypto/sha512"
	"encoding/binary"
	"math/bits"

	"golang.org/x/crypto/salsa20/salsa" //nolint:staticcheck // What it is deprecated for: ZeroTier's hash wants the stream in parts.
)

const (
	// memoryBytes is what the hash fills and then swaps words of at random.
	memoryBytes = 2 << 20
	memoryWords = memoryBytes / 8
	// blockBytes is what Salsa20 makes at a time, and blockWords the same in words.
	blockBytes = 64
	blockWords = blockBytes / 8
	// runBytes of key stream are made at a time: many enough that a call costs
	// nothing, few enough that they are still in the first cache when they are used.
	runBytes = 8 << 10

	// threshold is what the first byte of an identity's digest is below: the
	// work that an identity proves.
	threshold = 17
)

// digester computes the memory-hard digest. Each has 2 MB, so it is kept for
// the next key; it is for one goroutine.
type digester struct {
	memory  [memoryWords]uint64
	run     [runBytes]byte
	key     [32]byte
	counter [16]byte // the nonce, and the number of the next block
}

// zeros is what the key stream is made of: what is encrypted.
var zeros [runBytes]byte

// digest of a public key. The words of memory are the bytes as they lie there,
// read little-endian; only what chooses words to swap is read big-endian.
//
// The race detector leaves it alone: a digester is one goroutine's, and looking at
// half a million of its words takes it a hundred times as long.
//
//go:norace
func (d *digester) digest(public *[keyBytes]byte) [sha512.Size]byte {
	sum := sha512.Sum512(public[:])
	copy(d.key[:], sum[:32])
	copy(d.counter[:8], sum[32:40])
	clear(d.counter[8:])

	// Fill: each block is the one before, xored with the key stream.
	var last [blockWords]uint64
	for at := 0; at < memoryWords; at += runBytes / 8 {
		d.nextRun()
		for b := 0; b < runBytes; b += blockBytes {
			stream := (*[blockBytes]byte)(d.run[b:])
			block := (*[blockWords]uint64)(d.memory[at+b/8:])
			for i := range last {
				last[i] ^= binary.LittleEndian.Uint64(stream[8*i:])
			}
			*block = last
		}
	}

	// Mix: each pair of words of the memory names a word of the digest and one of
	// the memory, which change places, and then the digest is encrypted once more.
	var words [blockWords]uint64
	for i := range words {
		words[i] = binary.LittleEndian.Uint64(sum[8*i:])
	}
	for at := 0; at < memoryWords; at += 2 * runBytes / blockBytes {
		d.nextRun()
		pairs := (*[2 * runBytes / blockBytes]uint64)(d.memory[at:])
		for b := 0; b < runBytes; b += blockBytes {
			stream := (*[blockBytes]byte)(d.run[b:])
			pair := (*[2]uint64)(pairs[2*b/blockBytes:])
			i := bits.ReverseBytes64(pair[0]) % blockWords
			j := bits.ReverseBytes64(pair[1]) % memoryWords
			words[i], d.memory[j] = d.memory[j], words[i]
			for w := range words {
				words[w] ^= binary.LittleEndian.Uint64(stream[8*w:])
			}
		}
	}
	for i, w := range words {
		binary.LittleEndian.PutUint64(sum[8*i:], w)
	}
	return sum
}

// nextRun makes the next run of the one key stream that the whole digest takes
// its blocks from, in order.
func (d *digester) nextRun() {
	salsa.XORKeyStream(d.run[:], zeros[:], &d.counter, &d.key)
	block := binary.LittleEndian.Uint64(d.counter[8:])
	binary.LittleEndian.PutUint64(d.counter[8:], block+runBytes/blockBytes)
}

// addressOf a digest; ok is false where no identity has it: too little work, or
// a reserved address.
func addressOf(digest [sha512.Size]byte) (a Address, ok bool) {
	for _, b := range digest[sha512.Size-addressBytes:] {
		a = a<<8 | Address(b)
	}
	return a, digest[0] < threshold && !a.reserved()
}
