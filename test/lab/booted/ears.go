//go:build linux

package booted

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxHeard bounds what is kept of what was sent, in bytes.
	maxHeard = 256 << 20
	// maxFrame is the largest frame between two hosts: what a device splits for others
	// passes here whole.
	maxFrame = 128 << 10
	// queued is how much may wait until it is kept, in bytes.
	queued = 64 << 20
)

// Ears keep all that is sent from host to host, and on the loopback of some of them.
type Ears struct {
	stop    chan struct{}
	done    sync.WaitGroup
	mu      sync.Mutex
	streams map[string][]byte
	kept    int
	err     error
}

// Listen begins to keep what is sent. Whoever calls it calls Close.
func (l *Lab) Listen(loopbackOf ...*Host) (*Ears, error) {
	e := &Ears{stop: make(chan struct{}), streams: map[string][]byte{}}
	spaces := []string{switchSpace}
	for _, h := range loopbackOf {
		spaces = append(spaces, prefix+h.Name)
	}
	for i, space := range spaces {
		device := ""
		if i > 0 {
			device = "lo" // What leaves the host comes by the switch.
		}
		fd, err := packets(space, device)
		if err != nil {
			_, _ = e.Close()
			return nil, fmt.Errorf("listening in %s: %w", space, err)
		}
		e.done.Go(func() { e.keep(space, fd) })
	}
	return e, nil
}

// packets opens a socket that is given all frames that come to a device of a namespace,
// or to all of them.
func packets(space, device string) (int, error) {
	// The thread must not end for having been elsewhere, which would be simpler: the hosts
	// that it started would end with it, by their death signals.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(own) }()
	fd, err := packetsHere(space, device)
	if berr := unix.Setns(own, unix.CLONE_NEWNET); berr != nil {
		panic(fmt.Sprintf("this thread stays in the network %s: %v", space, berr))
	}
	return fd, err
}

func packetsHere(space, device string) (fd int, err error) {
	ns, err := unix.Open(filepath.Join("/run/netns", space), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(ns) }()
	if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
		return -1, err
	}
	// With no protocol, so that nothing comes before it is bound.
	fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	to := &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL)}
	if device != "" {
		var index int
		if index, err = indexOf(fd, device); err != nil {
			return -1, err
		}
		to.Ifindex = index
	}
	wait := unix.NsecToTimeval(int64(100 * time.Millisecond))
	return fd, errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, queued),
		// A frame comes by one port of the switch and leaves by another.
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
		unix.Bind(fd, to),
	)
}

func indexOf(fd int, device string) (int, error) {
	r, err := unix.NewIfreq(device)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, r); err != nil {
		return 0, err
	}
	return int(r.Uint32()), nil
}

// htons is a protocol in the order of bytes of the network.
func htons(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// keep keeps what comes until it is told to stop and nothing waits.
func (e *Ears) keep(space string, fd int) {
	defer func() { _ = unix.Close(fd) }()
	frame := make([]byte, maxFrame)
	for {
		n, _, err := unix.Recvfrom(fd, frame, unix.MSG_TRUNC)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			select {
			case <-e.stop:
				if s, err := unix.GetsockoptTpacketStats(fd, unix.SOL_PACKET, unix.PACKET_STATISTICS); err != nil {
					e.failed(err)
				} else if s.Drops > 0 {
					e.failed(fmt.Errorf("%d frames of %d in %s were not kept", s.Drops, s.Packets, space))
				}
				return
			default:
			}
		case err != nil:
			e.failed(err)
			return
		case n > len(frame):
			e.failed(fmt.Errorf("a frame of %d bytes in %s", n, space))
			return
		default:
			e.add(space, frame[:n])
		}
	}
}

func (e *Ears) failed(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.err = errors.Join(e.err, err)
}

func (e *Ears) add(space string, frame []byte) {
	stream, payload := streamOf(frame)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.kept += len(payload); e.kept > maxHeard {
		if e.kept-len(payload) <= maxHeard {
			e.err = errors.Join(e.err, fmt.Errorf("more than %d bytes were sent", maxHeard))
		}
		return
	}
	key := space + " " + stream
	e.streams[key] = append(e.streams[key], payload...)
}

// streamOf is what a frame's payload continues: one direction of one connection. What it
// does not know is a stream of its own, headers and all.
func streamOf(frame []byte) (stream string, payload []byte) {
	if len(frame) < 14+40 {
		return "", frame
	}
	var addresses, rest []byte
	var protocol byte
	switch packet := frame[14:]; binary.BigEndian.Uint16(frame[12:]) {
	case unix.ETH_P_IPV6:
		protocol, addresses, rest = packet[6], packet[8:40], packet[40:]
	case unix.ETH_P_IP:
		header := int(packet[0]&15) * 4
		if header < 20 || header > len(packet) {
			return "", frame
		}
		protocol, addresses, rest = packet[9], packet[12:20], packet[header:]
	default:
		return "", frame
	}
	header := 8
	if protocol == unix.IPPROTO_TCP && len(rest) > 12 {
		header = int(rest[12]>>4) * 4
	} else if protocol != unix.IPPROTO_UDP {
		return "", frame
	}
	if header < 8 || header > len(rest) {
		return "", frame
	}
	return fmt.Sprintf("%d %x %x", protocol, addresses, rest[:4]), rest[header:]
}

// Close ends it. What was sent comes as one text for each direction of each connection,
// in the order in which it was sent; the error says that it is not all.
func (e *Ears) Close() ([][]byte, error) {
	close(e.stop)
	e.done.Wait()
	return slices.Collect(maps.Values(e.streams)), e.err
}
