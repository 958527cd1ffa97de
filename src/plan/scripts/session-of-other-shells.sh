# shellcheck shell=sh
# What a shell that is no bash reads when it starts, where ENV names it. In front of this text stand the values of `nbsName` and
# `nbsSearchPath`, as for session.sh.
# shellcheck disable=SC2016,SC2154

unset ENV
PATH=$PATH$nbsSearchPath
PS1='[nix-build-shell '$nbsName'] $PWD $ '
unset nbsName nbsSearchPath
