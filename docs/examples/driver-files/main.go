// Driver-files is a driver plugin for hosts that only need files in place: it
// keeps each published directory under a name of its own and switches one
// symbolic link, so that whoever reads through the link sees the old files or
// the new ones and never a mixture. In fleet.yaml:
//
//	plugins:
//	  files: {kind: driver, file: {linux/amd64: ./bin/driver-files}}
//	source:
//	  driver: files
//	  files: ./site
//	  config:
//	    link: /srv/site
//	    reload: [/usr/bin/systemctl, reload, nginx.service]
package main

import "github.com/cameronraysmith/fleet/pkg/plugin"

func main() {
	plugin.ServeDriver(&files{dir: plugin.StateDir()})
}
