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


class Sudoer(DaemonUser):
    """The same user, who calls sudo."""

    def environment(self, **more):
        return super().environment(**{"SUDO_UID": str(self.uid), "SUDO_GID": str(self.uid), **more})

    def run(self, *argv, **how):
        return super().run(*argv, **{"as_root": True, **how})


KINDS = {"root": Caller, "store-owner": StoreOwner, "daemon": DaemonUser, "sudo": Sudoer}
