# The three programs, from the tree that this file is in.
{
  lib,
  buildGoModule,
  # go.mod wants Go 1.26: where nixpkgs' own default is older, this one.
  buildGo126Module ? buildGoModule,
  version ? "dev",
}:
buildGo126Module {
  pname = "fleet";
  inherit version;

  # All but what make puts beside the sources.
  src = lib.cleanSourceWith {
    src = lib.cleanSource ../..;
    filter = path: _: !(builtins.elem (baseNameOf path) [ "bin" ".tools" ]);
  };
  # Of the directory that "go mod vendor" makes; test/packaging says which, after
  # a change of go.mod.
  vendorHash = "sha256-0MPRwq4lzITSzEXxwBEGHoREktYxb/WmEcs6wKbd0jk=";

  subPackages = [ "cmd/fleet-agent" "cmd/fleet-coordinator" "cmd/fleetctl" ];
  # As the Makefile has them, but for AGENTFLAGS: one call of go builds all three here.
  tags = [ "grpcnotrace" "nethttpomithttp2" ];
  ldflags = [ "-s" "-w" "-X github.com/cameronraysmith/fleet/pkg/buildinfo.version=${version}" ];
  env.CGO_ENABLED = 0;
  # "make test" is for a checkout: it wants ssh-agent and a C compiler.
  doCheck = false;

  meta = {
    description = "Pull-based deployments for fleets of NixOS, nix-darwin, home-manager and plain Linux hosts";
    homepage = "https://github.com/cameronraysmith/fleet";
    license = lib.licenses.mit;
    mainProgram = "fleetctl";
  };
}
