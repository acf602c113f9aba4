package plugin

import (
	"context"
	"errors"
	"io"
	"net/rpc"
	"os"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/plugin/handshake"
	"github.com/cameronraysmith/fleet/pkg/probe"
)

// ServeDriver serves d to the agent that started this program, and returns, or
// ends the program, when the agent has no more need of it. Methods of d may be
// called concurrently for different profiles.
func ServeDriver(d driver.Driver) {
	serve("driver", func(s *grpc.Server) { driver.Serve(s, d) })
}

// ServeProbe serves p as ServeDriver does a driver.
func ServeProbe(p probe.Probe) {
	serve("probe", func(s *grpc.Server) { probe.Serve(s, p) })
}

// Handshake is what go-plugin's own client needs to start a plugin by hand, as
// a test of one may want to.
func Handshake() goplugin.HandshakeConfig {
	return goplugin.HandshakeConfig{
		ProtocolVersion: handshake.Version, MagicCookieKey: handshake.CookieKey, MagicCookieValue: handshake.CookieValue,
	}
}

func serve(kind string, register func(*grpc.Server)) {
	if os.Getenv(handshake.EnvLifeline) == "stdin" {
		go endWith(os.Stdin)
	}
	goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig:  Handshake(),
		VersionedPlugins: map[int]goplugin.PluginSet{handshake.Version: {kind: service(register)}},
		// Standard error is the plugin's own: the library only speaks up about
		// errors.
		Logger: hclog.New(&hclog.LoggerOptions{Level: hclog.Error, Output: os.Stderr}),
		GRPCServer: func(opts []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(opts,
				grpc.MaxRecvMsgSize(handshake.MaxMessageBytes), grpc.MaxSendMsgSize(handshake.MaxMessageBytes))...)
		},
	})
}

// endWith ends this program at the end of r: who started it is gone, perhaps
// without having been able to say so.
func endWith(r io.Reader) {
	_, _ = io.Copy(io.Discard, r)
	os.Exit(0) //nolint:forbidigo // Nobody is there to return to.
}

// service is a gRPC service as go-plugin wants it.
type service func(*grpc.Server)

var errNotHere = errors.New("this is the plugin's half")

// GRPCServer implements goplugin.GRPCPlugin.
func (s service) GRPCServer(_ *goplugin.GRPCBroker, server *grpc.Server) error {
	s(server)
	return nil
}

// GRPCClient implements goplugin.GRPCPlugin.
func (service) GRPCClient(context.Context, *goplugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, errNotHere
}

// Server implements goplugin.Plugin.
func (service) Server(*goplugin.MuxBroker) (any, error) { return nil, errNotHere }

// Client implements goplugin.Plugin.
func (service) Client(*goplugin.MuxBroker, *rpc.Client) (any, error) { return nil, errNotHere }
