# A NixOS module: `imports = [ ./packaging/nix/module.nix ]; programs.portgrant.enable = true;`.
{ config, lib, pkgs, ... }:

let
  cfg = config.programs.portgrant;
in
{
  options.programs.portgrant = {
    enable = lib.mkEnableOption "portgrant, ports below 1024 for programs that are not root";

    package = lib.mkOption {
      type = lib.types.package;
      default = pkgs.callPackage ./package.nix { };
      defaultText = lib.literalExpression "pkgs.callPackage ./package.nix { }";
      description = "The package that is installed.";
    };

    policy = lib.mkOption {
      type = lib.types.lines;
      default = "";
      example = "permit alice 80";
      description = "The content of /etc/portgrant.conf: see portgrant.conf(5).";
    };

    kernelMode = lib.mkEnableOption "the kernel mode, in which programs just call bind(2)";
  };

  config = lib.mkIf cfg.enable {
    environment.systemPackages = [ cfg.package ];

    # A file, because the helper follows no link to its policy. A policy without a byte would be refused.
    environment.etc."portgrant.conf" = {
      mode = "0644";
      text = "# Written by programs.portgrant.policy.\n" + cfg.policy + "\n";
    };

    # Not `capabilities`: the wrapper would pass the capability on as an ambient one, and the kernel protects a program that
    # got its privilege so from its caller less than one that is setuid.
    security.wrappers.portgrant-binder = {
      owner = "root";
      group = "root";
      setuid = true;
      source = "${cfg.package}/libexec/portgrant/portgrant-binder.unprivileged";
    };

    systemd.packages = lib.mkIf cfg.kernelMode [ cfg.package ];
    systemd.services = lib.mkIf cfg.kernelMode {
      portgrant-kernel = {
        wantedBy = [ "multi-user.target" ];
        reloadTriggers = [ config.environment.etc."portgrant.conf".source ];
      };
      portgrant-kernel-audit.wantedBy = [ "portgrant-kernel.service" ];
    };
  };
}
