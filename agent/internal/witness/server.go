package witness

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"
)

const (
	// maxConns are answered at once, maxPerHost of one address; who comes then is hung up
	// on, and asks again.
	maxConns   = 32
	maxPerHost = 4
	// reachPause is between two calls: no host can have another one call the coordinator
	// more often than that.
	reachPause = time.Second
)

// Server answers as a witness.
type Server struct {
	// TLS is pki.WitnessServerTLS.
	TLS *tls.Config
	// Reach reaches for the coordinator over a new connection.
	// Reach may return ErrBusy.
	Reach func(context.Context) error
	Log   *slog.Logger

	mu   sync.Mutex
	next *reach // the one that has not begun yet; nil for none
	// turn is held by the one that runs; ended is when one did last.
	turn  sync.Mutex
	ended time.Time
}

// reach is one call of Reach, for all who asked before it began: what was so before the
// question is no answer to it.
type reach struct {
	done chan struct{}
	err  error // once done
}

// Serve answers who connects, until ctx ends or the listener fails; it closes the
// listener and waits for all answers.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	places := places{of: map[string]int{}}
	for {
		conn, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("listening for others: %w", err)
		case err != nil:
			// Too many open files, say: it passes.
			s.Log.Warn("taking a connection failed", "error", err)
			if !pause(ctx) {
				return nil
			}
			continue
		}
		if host, ok := places.take(conn.RemoteAddr()); ok {
			wg.Go(func() {
				defer places.leave(host)
				if err := s.answer(ctx, conn); err != nil {
					s.Log.Debug("answering as a witness failed", "peer", conn.RemoteAddr().String(), "error", err)
				}
			})
		} else {
			_ = conn.Close()
		}
	}
}

// places are taken by those who are answered: who they are is known only after the
// handshake, and one of them must not keep all others out.
type places struct {
	mu  sync.Mutex
	all int
	of  map[string]int // by address
}

func (p *places) take(a net.Addr) (host string, ok bool) {
	host, _, err := net.SplitHostPort(a.String())
	if err != nil {
		host = a.String()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all >= maxConns || p.of[host] >= maxPerHost {
		return "", false
	}
	p.all++
	p.of[host]++
	return host, true
}

func (p *places) leave(host string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all--
	if p.of[host]--; p.of[host] == 0 {
		delete(p.of, host)
	}
}

func pause(ctx context.Context) bool {
	t := time.NewTimer(100 * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// answer lets one peer ask.
func (s *Server) answer(ctx context.Context, raw net.Conn) error {
	defer func() { _ = raw.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer stop()
	conn := tls.Server(raw, s.TLS)
	if err := conn.SetDeadline(deadline(handshakeWithin)); err != nil {
		return fmt.Errorf("setting a deadline: %w", err)
	}
	// The certificate is verified in it: nothing is read of a stranger but that.
	if err := conn.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("shaking hands: %w", err)
	}
	ask, err := readLine(conn, maxAsk)
	if err != nil {
		return err
	}
	answer := "yes"
	switch Ask(ask) {
	case Here:
	case Coordinator:
		switch err := s.reached(ctx); {
		case errors.Is(err, ErrBusy):
			answer = "busy"
		case err != nil:
			answer = "no " + plain(err.Error())
		}
	default:
		answer = "no such question"
	}
	if err := conn.SetDeadline(deadline(handshakeWithin)); err != nil {
		return fmt.Errorf("setting a deadline: %w", err)
	}
	if _, err := io.WriteString(conn, answer[:min(len(answer), maxAnswer-1)]+"\n"); err != nil {
		return fmt.Errorf("answering: %w", err)
	}
	return conn.Close() //nolint:wrapcheck // It says what failed.
}

// reached reaches for the coordinator after the question, once for all that wait for that.
func (s *Server) reached(ctx context.Context) error {
	s.mu.Lock()
	r := s.next
	first := r == nil
	if first {
		r = &reach{done: make(chan struct{})}
		s.next = r
	}
	s.mu.Unlock()
	if first {
		s.carryOut(ctx, r)
	}
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *Server) carryOut(ctx context.Context, r *reach) {
	s.turn.Lock()
	defer s.turn.Unlock()
	defer close(r.done)
	t := time.NewTimer(reachPause - time.Since(s.ended)) //nolint:forbidigo // Monotonic.
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	s.mu.Lock()
	s.next = nil
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, reachWithin)
	defer cancel()
	r.err = s.Reach(ctx)
	s.ended = time.Now() //nolint:forbidigo // Monotonic.
}

func deadline(d time.Duration) time.Time { return time.Now().Add(d) } //nolint:forbidigo // The network's.
