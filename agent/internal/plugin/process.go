package plugin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"google.golang.org/grpc"
	grpccredentials "google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/plugin/handshake"
)

const (
	// outputGrace is how long children that a plugin left behind may hold its
	// output open.
	outputGrace = time.Second
	// exitGrace is how long a plugin may take to end when asked.
	exitGrace = 2 * time.Second
	// busyRetries bounds attempts at a file that another fork of this process
	// still holds open for writing (golang.org/issue/22315).
	busyRetries = 20
)

// process is one running plugin.
type process struct {
	cmd    *exec.Cmd
	conn   *grpc.ClientConn
	stdin  *os.File // ends the plugin when this process does
	dir    string
	exited chan struct{} // closed when it is over and its group with it
	err    error         // how it ended; read after exited
	stdio  chan struct{} // closed when nothing reads its output stream any more
	stop   context.CancelFunc
}

// launch is all that a process needs.
type launch struct {
	plugin fleet.Plugin
	exe    *os.File // verified
	// socketDir is where a directory for its socket is made.
	socketDir string
	stateDir  string // empty for none
	path      string
	timeout   time.Duration
	now       func() time.Time
	log       *slog.Logger
}

// start runs a plugin and shakes hands. It returns an error with one of the
// reasons of this package as its code.
func start(ctx context.Context, l launch) (_ *process, code fleet.ReasonCode, err error) {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	creds, err := newCredentials(l.now())
	if err != nil {
		return nil, fleet.ReasonInternal, err
	}
	p := &process{exited: make(chan struct{}), stdio: make(chan struct{})}
	if p.dir, err = os.MkdirTemp(l.socketDir, "p"); err != nil {
		return nil, fleet.ReasonInternal, fmt.Errorf("could not get a directory for its socket: %w", err)
	}
	stdout := &firstLine{line: make(chan string, 1)}
	if err := p.run(l, creds, stdout); err != nil {
		_ = os.RemoveAll(p.dir)
		if errors.Is(err, syscall.ENOEXEC) || errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
			return nil, fleet.ReasonPluginNotExecutable, fmt.Errorf("cannot be executed: %w", err)
		}
		return nil, fleet.ReasonInternal, fmt.Errorf("could not be started: %w", err)
	}
	defer func() {
		if err != nil {
			p.kill()
		}
	}()
	var line string
	select {
	case line = <-stdout.line:
	case <-p.exited:
		// What it printed last may have come at the same moment.
		select {
		case line = <-stdout.line:
		default:
			return nil, fleet.ReasonPluginHandshake, fmt.Errorf("%w: it ended at once: %w", errHello, p.exitError())
		}
	case <-ctx.Done():
		return nil, fleet.ReasonPluginHandshake, fmt.Errorf("%w: it said nothing within %s", errHello, l.timeout)
	}
	h, err := parseHello(line, p.dir)
	if err != nil {
		if errors.Is(err, errVersion) {
			return nil, fleet.ReasonPluginVersion, err
		}
		return nil, fleet.ReasonPluginHandshake, err
	}
	p.conn, err = grpc.NewClient("passthrough:///plugin",
		grpc.WithTransportCredentials(grpccredentials.NewTLS(creds.tls(h.cert))),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", h.socket)
		}),
		grpc.WithDisableServiceConfig(), grpc.WithIdleTimeout(0),
		grpc.WithMaxHeaderListSize(16<<10),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(handshake.MaxMessageBytes), grpc.MaxCallSendMsgSize(handshake.MaxMessageBytes)))
	if err != nil {
		return nil, fleet.ReasonInternal, fmt.Errorf("could not be connected to: %w", err)
	}
	p.drain()
	return p, "", nil
}

// run starts the process in a group of its own. It is started by a thread that
// waits for it: the parent-death signal is about the thread, not the process.
func (p *process) run(l launch, creds credentials, stdout *firstLine) error {
	stdin, lifeline, err := os.Pipe()
	if err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	p.stdin = lifeline
	env := []string{
		"PATH=" + l.path, "HOME=/", "LANG=C.UTF-8",
		handshake.CookieKey + "=" + handshake.CookieValue,
		fmt.Sprintf("PLUGIN_PROTOCOL_VERSIONS=%d", handshake.Version),
		"PLUGIN_CLIENT_CERT=" + creds.pem,
		"PLUGIN_UNIX_SOCKET_DIR=" + p.dir,
		handshake.EnvLifeline + "=stdin",
	}
	if l.stateDir != "" {
		env = append(env, handshake.EnvState+"="+l.stateDir)
	}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for try := 1; ; try++ {
			p.cmd = &exec.Cmd{
				Path: executablePath(l.exe), Args: []string{string(l.plugin.Name)}, Env: env, Dir: "/",
				Stdin: stdin, Stdout: stdout, Stderr: &logLines{log: l.log},
				ExtraFiles: executableFiles(l.exe), SysProcAttr: processAttributes(), WaitDelay: outputGrace,
			}
			err := p.cmd.Start()
			if errors.Is(err, syscall.ETXTBSY) && try < busyRetries {
				time.Sleep(time.Duration(try) * time.Millisecond)
				continue
			}
			_ = stdin.Close()
			if err != nil {
				_ = lifeline.Close()
			}
			started <- err
			if err != nil {
				return
			}
			break
		}
		// While it is not reaped its number, and so its group's, is its own.
		awaitExit(p.cmd.Process.Pid)
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		p.err = p.cmd.Wait()
		_ = lifeline.Close()
		_ = os.RemoveAll(p.dir)
		close(p.exited)
	}()
	return <-started
}

// drain reads what go-plugin's server makes of the plugin's standard output and
// error once it serves, into nothing: unread, it would hang whoever writes.
func (p *process) drain() {
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	go func() {
		defer close(p.stdio)
		stream, err := p.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/plugin.GRPCStdio/StreamStdio")
		if err != nil {
			return
		}
		if stream.SendMsg(&emptypb.Empty{}) != nil || stream.CloseSend() != nil {
			return
		}
		for stream.RecvMsg(&emptypb.Empty{}) == nil {
		}
	}()
}

// alive says whether the process runs.
func (p *process) alive() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

func (p *process) exitError() error {
	if p.err == nil {
		return errors.New("exit status 0")
	}
	return p.err
}

// end asks the plugin to end, and makes it.
func (p *process) end() {
	ctx, cancel := context.WithTimeout(context.Background(), exitGrace)
	defer cancel()
	if p.alive() && p.conn != nil {
		// The answer does not matter: the plugin may end before it is sent.
		_ = p.conn.Invoke(ctx, "/plugin.GRPCController/Shutdown", &emptypb.Empty{}, &emptypb.Empty{})
		select {
		case <-p.exited:
		case <-ctx.Done():
		}
	}
	p.kill()
}

// kill ends the plugin's whole group and gives back all that it had.
func (p *process) kill() {
	if p.alive() {
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	}
	<-p.exited
	if p.stop != nil {
		p.stop()
		_ = p.conn.Close()
		<-p.stdio
	}
}
