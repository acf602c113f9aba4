// Probe-certificate is a probe plugin: it passes while a certificate is good
// for some days more. In fleet.yaml:
//
//	plugins:
//	  certificate: {kind: probe, file: {linux/amd64: ./bin/probe-certificate}}
//	probes:
//	  tls: {kind: plugin, plugin: certificate, config: {file: /var/lib/acme/site.pem, days: 14}}
//	  served: {kind: plugin, plugin: certificate, config: {address: "127.0.0.1:443", name: example.org}}
package main

import (
	"time"

	"github.com/cameronraysmith/fleet/pkg/plugin"
)

func main() {
	plugin.ServeProbe(&certificate{now: time.Now})
}
