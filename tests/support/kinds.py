"""The kinds of Nix that a build fails in, each with somebody who opens its sandbox."""

from support.caller import Caller


class StoreOwner(Caller):
    """An unprivileged user with a store of his own, as of «nix-build --store ROOT»."""

    def command_line(self, *command, build_dir=None, options=()):
        options = ["--store-root", str(self.builds.users_store()), *options]
        return super().command_line(*command, build_dir=build_dir, options=options)


class DaemonUser(Caller):
    """An unprivileged user for whom a daemon built: what is kept belongs to a build user."""

    def kept(self, package="greeting"):
        return self.builds.by_daemon(package)

    def command_line(self, *command, build_dir=None, options=()):
        """Tells the derivation, which only a name leads to: a store that has been used for a while has many of one name."""
        build_dir = build_dir or self.kept()
        if build_dir in self.builds.logs and "--derivation" not in options:
            options = ["--derivation", str(self.builds.derivation(build_dir)), *options]
        return super().command_line(*command, build_dir=build_dir, options=options)


class Sudoer(DaemonUser):
    """The same user, who calls sudo: he can read which outputs are to be made."""

    command_line = Caller.command_line

    def environment(self, **more):
        return super().environment(**{"SUDO_UID": str(self.uid), "SUDO_GID": str(self.uid), **more})

    def run(self, *argv, **how):
        return super().run(*argv, **{"as_root": True, **how})


KINDS = {"root": Caller, "store-owner": StoreOwner, "daemon": DaemonUser, "sudo": Sudoer}
