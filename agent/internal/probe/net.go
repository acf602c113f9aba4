package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Bounds on what an HTTP probe takes.
const (
	maxBodyBytes   = 64 << 10
	maxHeaderBytes = 64 << 10
	maxRedirects   = 3
)

func runHTTP(ctx context.Context, p fleet.Probe) (_ fleet.Verdict, detail string) {
	u, err := url.Parse(p.URL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return fleet.VerdictFail, "the probe's url is not http:// or https:// with a host"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL, nil)
	if err != nil {
		return fleet.VerdictFail, "the probe's url cannot be used"
	}
	transport := &http.Transport{
		// No Proxy: what is asked is this host, whatever the environment says.
		DisableKeepAlives:      true,
		MaxResponseHeaderBytes: maxHeaderBytes,
		ForceAttemptHTTP2:      true,
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: redirects(p)}
	resp, err := client.Do(req)
	if err != nil {
		return fleet.VerdictFail, fmt.Sprintf("%s: %s", u.Redacted(), causeOf(err))
	}
	defer func() { _ = resp.Body.Close() }()
	if good := resp.StatusCode == p.Status || p.Status == 0 && resp.StatusCode/100 == 2; !good {
		return fleet.VerdictFail, fmt.Sprintf("%s: status %s, want %s", u.Redacted(), resp.Status, wantStatus(p))
	}
	if p.Contains == "" {
		return fleet.VerdictPass, fmt.Sprintf("status %d", resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBodyBytes))
	switch {
	case bytes.Contains(body, []byte(p.Contains)):
		return fleet.VerdictPass, fmt.Sprintf("status %d, body as wanted", resp.StatusCode)
	case err != nil:
		return fleet.VerdictFail, fmt.Sprintf("%s: reading body: %s", u.Redacted(), causeOf(err))
	}
	return fleet.VerdictFail, fmt.Sprintf("%s: status %d, but %q is not in the first %d bytes of the body",
		u.Redacted(), resp.StatusCode, p.Contains, len(body))
}

// redirects follows a few, or none where one is what is wanted.
func redirects(p fleet.Probe) func(*http.Request, []*http.Request) error {
	return func(_ *http.Request, via []*http.Request) error {
		switch {
		case p.Status/100 == 3:
			return http.ErrUseLastResponse
		case len(via) > maxRedirects:
			return fmt.Errorf("more than %d redirects", maxRedirects)
		}
		return nil
	}
}

func wantStatus(p fleet.Probe) string {
	if p.Status == 0 {
		return "200 to 299"
	}
	return fmt.Sprint(p.Status)
}

// causeOf leaves the method and URL out, which may hold a password.
func causeOf(err error) string {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err
	}
	return err.Error()
}

func runTCP(ctx context.Context, p fleet.Probe) (fleet.Verdict, string) {
	if _, port, err := net.SplitHostPort(p.Address); err != nil || strings.TrimSpace(port) == "" {
		return fleet.VerdictFail, fmt.Sprintf("address %q is not host:port", p.Address)
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", p.Address)
	if err != nil {
		return fleet.VerdictFail, err.Error()
	}
	_ = conn.Close()
	return fleet.VerdictPass, "connected"
}
