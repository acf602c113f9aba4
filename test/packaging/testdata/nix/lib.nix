# A small stub of nixpkgs' lib: what the modules and flake.nix use of it, with a
# module system that knows imports, options with types, mkIf, mkMerge, mkDefault, mkForce
# and definitions at several places. Wrong types, options that don't exist and
# contradictions are errors, as they are in the real one; nothing else of it is.
let
  inherit (builtins)
    all any attrNames attrValues concatLists concatMap concatStringsSep elem filter foldl' genericClosure
    hasAttr head isAttrs isBool isFunction isInt isList isPath isString length listToAttrs map mapAttrs
    match replaceStrings substring stringLength throw toString;

  tagged = tag: value: isAttrs value && (value._type or null) == tag;
  path = concatStringsSep ".";

  types = rec {
    simple = name: check: {
      inherit name check;
      merge = where: values:
        if all (v: v == head values) values then head values
        else throw "The option `${where}' has conflicting definition values";
    };
    many = name: check: merge: { inherit name check merge; };
    bool = simple "boolean" isBool;
    str = simple "string" isString;
    lines = many "strings concatenated with \\n" isString (_: concatStringsSep "\n");
    package = simple "package" (v: isAttrs v && v ? outPath);
    anything = simple "anything" (_: true);
    port = simple "16 bit unsigned integer" (v: isInt v && v >= 0 && v < 65536);
    ints = {
      positive = simple "positive integer" (v: isInt v && v > 0);
      unsigned = simple "unsigned integer" (v: isInt v && v >= 0);
    };
    strMatching = pattern: simple "string matching the pattern ${pattern}" (v: isString v && match pattern v != null);
    enum = of: simple "one of ${concatStringsSep ", " (map toString of)}" (v: elem v of);
    nullOr = of: { name = "null or ${of.name}"; check = v: v == null || of.check v; inherit (simple "" of.check) merge; };
    either = a: b: simple "${a.name} or ${b.name}" (v: a.check v || b.check v);
    listOf = of: many "list of ${of.name}" (v: isList v && all of.check v) (_: concatLists);
    attrsOf = of: many "attribute set of ${of.name}" (v: isAttrs v && all of.check (attrValues v))
      (where: values: lib.unforce (foldl' (into: from: lib.recursiveUpdateUnlessBoth where into from) { } values));
  };

  # spread is definitions for options further below: conditions go along and are
  # not looked at, because they may be about what is defined beside them.
  spread = config:
    if tagged "if" config then map (mapAttrs (_: content: lib.mkIf config.condition content)) (spread config.content)
    else if tagged "merge" config then concatMap spread config.contents
    else [ config ];

  # pushed is definitions of an option, without conditions.
  pushed = config:
    if tagged "if" config then (if config.condition then pushed config.content else [ ])
    else if tagged "merge" config then concatMap pushed config.contents
    else [ config ];

  load = args: module:
    let
      value = if isPath module || isString module then import module else module;
      made = if isFunction value then value args else value;
      plain = if made ? config || made ? options then made else { config = removeAttrs made [ "imports" ]; imports = made.imports or [ ]; };
    in
    [ { options = plain.options or { }; config = plain.config or { }; } ] ++ concatMap (load args) (plain.imports or [ ]);

  merge = where: options: definitions:
    if tagged "option" options then
      let
        found = concatMap pushed definitions;
        strong = filter (v: !(tagged "default" v)) found;
        values = if strong != [ ] then strong else map (v: v.content) found;
        # What is within the values may have its own conditions.
        settled = map lib.settle values;
        wrong = filter (v: !(options.type.check v)) settled;
      in
      if settled == [ ] then options.default or (throw "The option `${path where}' was accessed but has no value defined")
      else if wrong != [ ] then throw "A definition for option `${path where}' is not of type `${options.type.name}'"
      else options.type.merge (path where) settled
    else
      let
        sets = concatMap spread definitions;
        unknown = filter (name: !(hasAttr name options)) (concatMap attrNames sets);
      in
      if unknown != [ ] then throw "The option `${path (where ++ [ (head unknown) ])}' does not exist"
      else mapAttrs (name: below: merge (where ++ [ name ]) below (concatMap (set: if hasAttr name set then [ set.${name} ] else [ ]) sets)) options;

  lib = {
    inherit types;
    inherit (builtins) all any attrNames concatLists concatMap concatStringsSep elem filter isString;

    mkOption = option: option // { _type = "option"; };
    mkEnableOption = what: lib.mkOption { type = types.bool; default = false; description = "Whether to enable ${what}."; };
    mkIf = condition: content: { _type = "if"; inherit condition content; };
    mkMerge = contents: { _type = "merge"; inherit contents; };
    mkForce = content: { _type = "force"; inherit content; };
    mkDefault = content: { _type = "default"; inherit content; };
    lowPrio = package: package // { lowPrio = true; };

    settle = value:
      if isAttrs value && !(value ? outPath) then
        let one = name: pushed value.${name};
        in listToAttrs (concatMap (name: map (v: { inherit name; value = lib.settle v; }) (one name)) (attrNames value))
      else value;
    recursiveUpdateUnlessBoth = where: into: from:
      into // mapAttrs (name: value:
        if !(hasAttr name into) || tagged "force" value then value
        else if tagged "force" into.${name} then into.${name}
        else if isAttrs value && isAttrs into.${name} then lib.recursiveUpdateUnlessBoth where into.${name} value
        else if isList value && isList into.${name} then into.${name} ++ value
        else throw "The option `${where}.${name}' has conflicting definition values") from;

    unforce = value:
      if tagged "force" value then value.content
      else if isAttrs value && !(value ? outPath) then mapAttrs (_: lib.unforce) value
      else value;

    # evalModules gives the configuration and all options' declarations.
    evalModules = { modules, specialArgs ? { } }:
      let
        args = specialArgs // { inherit config lib options; };
        loaded = concatMap (load args) modules;
        options = foldl' (into: module: lib.recursiveUpdate into module.options) { } loaded;
        config = merge [ ] options (map (module: module.config) loaded);
      in
      { inherit config options; };
    recursiveUpdate = into: from:
      into // mapAttrs (name: value:
        if isAttrs value && isAttrs (into.${name} or null) && !(tagged "option" value) then lib.recursiveUpdate into.${name} value else value) from;

    optionals = condition: list: if condition then list else [ ];
    mapAttrsToList = f: set: map (name: f name set.${name}) (attrNames set);
    genAttrs = names: f: listToAttrs (map (name: { inherit name; value = f name; }) names);
    concatMapStringsSep = separator: f: list: concatStringsSep separator (map f list);
    hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;
    hasInfix = infix: text: replaceStrings [ infix ] [ "" ] text != text;
    escapeShellArg = text: if match "[[:alnum:],._+:@%/-]+" text != null then text else "'${replaceStrings [ "'" ] [ "'\\''" ] text}'";
    escapeShellArgs = lib.concatMapStringsSep " " lib.escapeShellArg;
    cleanSource = src: src;
    cleanSourceWith = { src, filter }: builtins.path { path = src; name = "source"; inherit filter; };
    licenses.mit.spdxId = "MIT";
  };
in
lib
