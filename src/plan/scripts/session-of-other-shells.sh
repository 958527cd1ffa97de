# shellcheck shell=sh
# What a shell that is no bash reads when it starts, where ENV names it. In front of this text stand the same values
# as for session.sh.
# shellcheck disable=SC2016,SC2154

unset ENV
PATH=$PATH$nbsSearchPath
PS1='[nix-build-shell '$nbsName'] $PWD $ '
unset nbsShell nbsTop nbsDirectory nbsName nbsPhase nbsStart nbsSourceRoot nbsSearchPath nbsMadeOutputs
