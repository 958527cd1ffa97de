# shellcheck shell=bash
# A small standard environment with the interface of nixpkgs' `setup`: the same functions, variables, phases and files,
# as far as a tool that works on failed builds can notice. A builder sources it and calls genericBuild.
#
# default.nix puts two lines before this text, which set SHELL and initialPath; the package's attributes are variables.
# shellcheck disable=SC2154
set -e -o pipefail
shopt -s inherit_errexit

# With structured attributes, Nix has put what would be the environment into a script, .attrs.sh, which the builder has
# sourced: that script says where this one is. Then `outputs` is an associative array and only `env` is for export.
if [[ $(declare -p outputs 2>/dev/null) == "declare -A"* ]]; then
    __structuredAttrs=1
    for setupName in "${!env[@]}"; do export "$setupName=${env[$setupName]}"; done
    for setupName in "${!outputs[@]}"; do export "$setupName=${outputs[$setupName]}"; done
    unset setupName
fi

# --- Lists, which are arrays with structured attributes and words in a string without them ---------------------------

# appendTo ARRAY VARIABLE...: append the elements of each VARIABLE, in whichever form, to ARRAY.
appendTo() {
    local -n appendTarget=$1
    local variable
    for variable in "${@:2}"; do
        local -n appendSource=$variable
        if [[ $(declare -p "$variable" 2>/dev/null) == "declare -a"* ]]; then
            appendTarget+=("${appendSource[@]}")
        else
            # shellcheck disable=SC2206 # words are wanted
            appendTarget+=(${appendSource-})
        fi
        unset -n appendSource
    done
}

getAllOutputNames() {
    if [[ -n ${__structuredAttrs-} ]]; then echo "${!outputs[*]}"; else echo "$outputs"; fi
}

# --- Hooks: a function or a string of that name, then the elements of the array (preBuild: preBuildHooks) ------------

runOneHook() {
    if [[ $(type -t "$1") == function ]]; then "$1"; else eval "$1"; fi
}

runHook() {
    local hook hooks="${1%Hook}Hooks[@]"
    if [[ $(type -t "$1") == function ]]; then "$1"; else eval "${!1-}"; fi
    for hook in "${!hooks-}"; do
        [[ -z $hook ]] || runOneHook "$hook"
    done
}

# --- The end of the build -------------------------------------------------------------------------------------------

exitHandler() {
    local exitCode=$?
    set +e
    if ((exitCode != 0)); then runHook failureHook; else runHook exitHook; fi
    return "$exitCode"
}
trap exitHandler EXIT

# --- The environment ------------------------------------------------------------------------------------------------

# addToSearchPath VARIABLE DIR: DIR at the end of a list that colons separate, if there is such a directory.
addToSearchPath() {
    [[ ! -d $2 ]] || export "$1=${!1:+${!1}:}$2"
}

setupEnvironment() {
    local package packages=()
    # With strictDeps, buildInputs are for the machine the result runs on: their programs are not for the build.
    appendTo packages nativeBuildInputs
    [[ -n ${strictDeps-} ]] || appendTo packages buildInputs
    appendTo packages initialPath
    # shellcheck disable=SC2123 # it is the search path that is meant
    PATH=
    for package in "${packages[@]}"; do addToSearchPath PATH "$package/bin"; done
    for package in "${packages[@]}"; do
        # shellcheck disable=SC1091
        if [[ -e $package/nix-support/setup-hook ]]; then source "$package/nix-support/setup-hook"; fi
    done
    export PATH SHELL CONFIG_SHELL=$SHELL
    export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-315532800}
}
setupEnvironment

# The environment as it is now, for somebody who looks at the build directory later. It can hold secrets of the build.
dumpVars() {
    if [[ -z ${noDumpEnvVars-} && -d $NIX_BUILD_TOP ]]; then
        rm -f "$NIX_BUILD_TOP/env-vars"
        (umask 077 && export > "$NIX_BUILD_TOP/env-vars")
    fi
}

# --- Helpers for phases ----------------------------------------------------------------------------------------------

# stripHash PATH: the name of a store path, without its hash.
stripHash() {
    local name=${1##*/}
    [[ ! $name =~ ^[0-9a-z]{32}- ]] || name=${name:33}
    printf '%s\n' "$name"
}

# patchShebangs PATH...: make the scripts at or below each PATH use the interpreters of this build.
patchShebangs() {
    local file line interpreter argument found
    while IFS= read -r -d '' file; do
        IFS= read -r line < "$file" || [[ -n $line ]] || continue
        [[ $line == '#!'* && $line != *"$NIX_STORE"* ]] || continue
        read -r interpreter argument <<< "${line:2}"
        if [[ $interpreter == */env ]]; then read -r interpreter argument <<< "$argument"; fi
        found=$(type -P "${interpreter##*/}") || continue
        echo "$file: interpreter directive changed from \"$line\" to \"#!$found${argument:+ $argument}\""
        sed -i "1s|.*|#!$found${argument:+ $argument}|" "$file"
    done < <(find "$@" -type f -perm -0100 -print0)
}

# makeWith VARIABLE TARGET...: run make with the package's flags and those in VARIABLE.
makeWith() {
    local flags=("SHELL=$SHELL")
    [[ -z ${enableParallelBuilding-} ]] || flags+=("-j$NIX_BUILD_CORES")
    appendTo flags makeFlags makeFlagsArray "$1"
    shift
    echo "make flags:" "${flags[@]}" "$@"
    make ${makefile:+-f "$makefile"} "${flags[@]}" "$@"
}

haveMakefile() {
    [[ -n ${makefile-} || -e Makefile || -e makefile || -e GNUmakefile ]]
}

# firstTarget TARGET...: the first of them that the Makefile has.
firstTarget() {
    local target
    for target; do
        if make ${makefile:+-f "$makefile"} -n "$target" > /dev/null 2>&1; then
            echo "$target"
            return
        fi
    done
}

# --- The phases -------------------------------------------------------------------------------------------------------

unpackFile() {
    echo "unpacking source archive $1"
    if [[ -d $1 ]]; then
        cp -r --preserve=mode,timestamps --reflink=auto -- "$1" "$(stripHash "$1")"
    else
        tar xf "$1"
    fi
}

unpackPhase() {
    runHook preUnpack
    local source sources=() entry before=:
    appendTo sources srcs
    if ((${#sources[@]} == 0)); then appendTo sources src; fi
    if ((${#sources[@]} == 0)); then
        echo "there is no source to unpack: set src, srcs or dontUnpack" >&2
        exit 1
    fi
    for entry in *; do before+=$entry:; done
    for source in "${sources[@]}"; do unpackFile "$source"; done
    if [[ -n ${setSourceRoot-} ]]; then
        runOneHook "$setSourceRoot"
    elif [[ -z ${sourceRoot-} ]]; then
        for entry in *; do
            [[ -d $entry && $before != *":$entry:"* ]] || continue
            if [[ -n ${sourceRoot-} ]]; then
                echo "unpacking made several directories: set sourceRoot" >&2
                exit 1
            fi
            sourceRoot=$entry
        done
    fi
    if [[ -z ${sourceRoot-} ]]; then
        echo "unpacking made no directory: set sourceRoot" >&2
        exit 1
    fi
    echo "source root is $sourceRoot"
    [[ -n ${dontMakeSourcesWritable-} ]] || chmod -R u+w -- "$sourceRoot"
    runHook postUnpack
}

patchPhase() {
    runHook prePatch
    local file files=() flags=()
    appendTo files patches
    appendTo flags patchFlags
    for file in "${files[@]}"; do
        echo "applying patch $file"
        patch "${flags[@]:--p1}" < "$file"
    done
    runHook postPatch
}

configurePhase() {
    runHook preConfigure
    local flags=()
    if [[ -z ${configureScript-} && -x ./configure ]]; then configureScript=./configure; fi
    if [[ -n ${configureScript-} ]]; then
        [[ -n ${dontAddPrefix-} ]] || flags+=("--prefix=${prefix:-$out}")
        appendTo flags configureFlags configureFlagsArray
        echo "configure flags: ${flags[*]}"
        "$SHELL" "$configureScript" "${flags[@]}"
    else
        echo "no configure script, doing nothing"
    fi
    runHook postConfigure
}

buildPhase() {
    runHook preBuild
    if haveMakefile; then
        # It tells the phases that check something, and no other process.
        foundMakefile=1
        makeWith buildFlags
    else
        echo "no Makefile, doing nothing"
    fi
    runHook postBuild
}

checkPhase() {
    runHook preCheck
    : "${checkTarget:=$(firstTarget check test)}"
    if [[ -z ${foundMakefile-} ]]; then
        echo "no Makefile or custom checkPhase, doing nothing"
    elif [[ -n $checkTarget ]]; then
        # shellcheck disable=SC2086 # there may be several
        makeWith checkFlags $checkTarget
    else
        echo "no check or test target, doing nothing"
    fi
    runHook postCheck
}

installPhase() {
    runHook preInstall
    mkdir -p "${prefix:-$out}"
    # shellcheck disable=SC2086
    if haveMakefile; then makeWith installFlags ${installTargets:-install}; fi
    runHook postInstall
}

fixupPhase() {
    runHook preFixup
    local output
    for output in $(getAllOutputNames); do
        if [[ -e ${!output} ]]; then
            chmod -R u+w,u-s,g-s -- "${!output}"
            [[ -n ${dontPatchShebangs-} ]] || patchShebangs "${!output}"
        fi
    done
    runHook postFixup
}

installCheckPhase() {
    runHook preInstallCheck
    : "${installCheckTarget:=$(firstTarget installcheck)}"
    # shellcheck disable=SC2086
    [[ -z $installCheckTarget ]] || makeWith installCheckFlags $installCheckTarget
    runHook postInstallCheck
}

distPhase() {
    runHook preDist
    # shellcheck disable=SC2086
    makeWith distFlags ${distTarget:-dist}
    runHook postDist
}

# --- The build --------------------------------------------------------------------------------------------------------

# phaseIsWanted PHASE: whether the package's do... and dont... attributes let it run.
phaseIsWanted() {
    case $1 in
        checkPhase) [[ -n ${doCheck-} ]] ;;
        installCheckPhase) [[ -n ${doInstallCheck-} ]] ;;
        distPhase) [[ -n ${doDist-} ]] ;;
        unpackPhase | patchPhase | configurePhase | buildPhase | installPhase | fixupPhase)
            local phase=${1%Phase}
            local dont=dont${phase^}
            [[ -z ${!dont-} ]]
            ;;
    esac
}

showPhaseHeader() {
    echo "Running phase: $1"
    # Nix keeps this line in the log and shows the phase to the user.
    if [[ -n ${NIX_LOG_FD-} ]]; then
        printf '@nix { "action": "setPhase", "phase": "%s" }\n' "$1" >&"$NIX_LOG_FD"
    fi
}

runPhase() {
    local curPhase=$1
    phaseIsWanted "$curPhase" || return 0
    showPhaseHeader "$curPhase"
    dumpVars
    # A phase that is given as a string takes the place of the function.
    eval "${!curPhase:-$curPhase}"
    if [[ $curPhase == unpackPhase ]]; then
        [[ ! -d ${sourceRoot-} ]] || chmod u+x -- "$sourceRoot"
        cd -- "${sourceRoot:-.}"
    fi
}

definePhases() {
    if [[ -z ${phases[*]-} ]]; then
        phases="${prePhases[*]-} unpackPhase patchPhase ${preConfigurePhases[*]-} configurePhase \
            ${preBuildPhases[*]-} buildPhase checkPhase ${preInstallPhases[*]-} installPhase \
            ${preFixupPhases[*]-} fixupPhase installCheckPhase ${preDistPhases[*]-} distPhase ${postPhases[*]-}"
    fi
}

genericBuild() {
    if [[ -f ${buildCommandPath-} ]]; then
        # shellcheck disable=SC1090
        source "$buildCommandPath"
    elif [[ -n ${buildCommand-} ]]; then
        eval "$buildCommand"
    else
        local phase
        definePhases
        # shellcheck disable=SC2048 # it may be an array or words
        for phase in ${phases[*]}; do runPhase "$phase"; done
    fi
}
