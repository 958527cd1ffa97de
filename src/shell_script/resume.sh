# shellcheck shell=bash
# Runs phases of a failed build, as stdenv's genericBuild would have gone on. Bash reads it as a file, with -e, and with the variables in
# its environment that were exported when the failed phase began. In front of it stands stdenv.sh.
#
# resume.sh from PHASE DIRECTORY SOURCE_ROOT NOTE   PHASE, which begins in DIRECTORY, and all after it
# resume.sh only PHASE DIRECTORY SOURCE_ROOT NOTE   PHASE alone
#
# SOURCE_ROOT is the directory that unpackPhase has made, and NOTE a file to which is added, as each phase begins: its name, the directory
# and the outputs that there are, with a zero byte after each; either may be nothing.
# shellcheck disable=SC2034,SC2154
exec 9<&-
nbsHow=$1 nbsPhase=${2-} nbsDirectory=${3-} nbsSourceRoot=${4-} nbsNote=${5-}
set --
# stdenv derives some of these from others, and would do so a second time.
nbsExported=$(export -p)
nbsBefore=${OLDPWD-}

# Not in a function: what is declared there is gone when it returns.
if [[ -e ${NIX_ATTRS_SH_FILE-} ]]; then
    # shellcheck disable=SC1090
    source "$NIX_ATTRS_SH_FILE"
elif [[ -e $NIX_BUILD_TOP/.attrs.sh ]]; then
    source "$NIX_BUILD_TOP/.attrs.sh"
fi
# shellcheck disable=SC1091
source "$stdenv/setup"

# nbsRefuse TEXT: end, without what stdenv does at the end of a build.
nbsRefuse() {
    trap - EXIT
    printf 'nix-build-shell: %s\n' "$1" >&2
    exit 125
}

nbsHideFromTerminal
if ! nbsIsFunction runPhase; then
    runPhase() { nbsRunPhase "$@"; }
fi

# A variable that bash lets nobody set keeps its value.
eval "$nbsExported" 2> /dev/null || :
if [[ $PWD != "$nbsDirectory" ]]; then
    cd -- "$nbsDirectory" 2> /dev/null ||
        nbsRefuse "there is no directory $nbsDirectory, in which $nbsPhase is to begin"
    if [[ -n $nbsBefore ]]; then OLDPWD=$nbsBefore; fi
fi

# shellcheck disable=SC2207
nbsAll=($(nbsAllPhases))
nbsLeft=()
for nbsIndex in "${!nbsAll[@]}"; do
    if [[ ${nbsAll[nbsIndex]} == "$nbsPhase" ]]; then
        nbsLeft=("${nbsAll[@]:nbsIndex}")
        break
    fi
done
if [[ ${#nbsLeft[@]} == 0 ]]; then
    # Alone, one can be run that is not among them.
    if [[ $nbsHow != only ]] || ! nbsCanRun "$nbsPhase"; then
        nbsRefuse "there is no phase $nbsPhase; the phases are: ${nbsAll[*]}"
    fi
fi
if [[ $nbsHow == only ]]; then
    if nbsIsLeftOut "$nbsPhase"; then
        nbsRefuse "$nbsPhase is left out of this build by $nbsSwitch, which is «${!nbsSwitch-}»"
    fi
    nbsLeft=("$nbsPhase")
fi

nbsRecall "$nbsPhase"
# genericBuild does these two.
if nbsIsFunction definePhases; then definePhases; fi
if nbsHasText genericBuild GZIP_NO_TIMESTAMPS; then export GZIP_NO_TIMESTAMPS=1; fi
for curPhase in "${nbsLeft[@]}"; do
    if [[ -n $nbsNote ]]; then printf '%s\0%s\0%s\0' "$curPhase" "$PWD" "$(nbsOutputsThere)" >> "$nbsNote"; fi
    runPhase "$curPhase"
done
