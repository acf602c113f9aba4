package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"google.golang.org/grpc/credentials"
)

// peer is who is at the other end of the socket, by the kernel's word.
type peer struct {
	credentials.CommonAuthInfo
	uid uint32
}

// AuthType names the kind of authentication.
func (peer) AuthType() string { return "unix-peer" }

func (p peer) actor() string { return actor(p.uid) }

// actor is a user of this machine, for the record.
func actor(uid uint32) string { return fmt.Sprintf("local/uid-%d", uid) }

// errPeer refuses whoever is neither root nor the agent's user.
var errPeer = errors.New("only root and the agent's user may use the control socket")

// peerCredentials authenticate a unix socket by the uid of its other end.
type peerCredentials struct{}

// ServerHandshake asks the kernel who connected.
func (peerCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, nil, errors.New("control socket: not a unix connection")
	}
	uid, err := peerUID(c)
	if err != nil {
		return nil, nil, fmt.Errorf("control socket: asking who connected: %w", err)
	}
	if uid != 0 && uid != uint32(os.Geteuid()) { //nolint:gosec // A uid.
		return nil, nil, errPeer
	}
	return conn, peer{uid: uid}, nil
}

// ClientHandshake has nothing to prove: the kernel does.
func (peerCredentials) ClientHandshake(_ context.Context, _ string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return conn, peer{}, nil
}

// Info describes the protocol.
func (peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "unix-peer"}
}

// Clone copies.
func (c peerCredentials) Clone() credentials.TransportCredentials { return c }

// OverrideServerName has no meaning on a unix socket.
func (peerCredentials) OverrideServerName(string) error { return nil }
