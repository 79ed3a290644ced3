#!/bin/sh
# Prints the path of a rabbitmq-server of Debian 13, RabbitMQ 4.0, for LSMTPD_TEST_RABBITMQ. What it needs is fetched once, from
# the mirror that this Debian uses, and kept in ~/.cache/lsmtpd: `make test-rabbitmq4` runs it.
#
# The programs beside that server run as what they are, in the file system of this machine, but with /usr and /etc of Debian 13
# mounted over its own: in a mount namespace that ends with the program, so that nothing stays mounted.
set -eu

home=${XDG_CACHE_HOME:-$HOME/.cache}/lsmtpd/rabbitmq4
root=$home/debian
bin=$home/bin
programs="rabbitmq-server rabbitmqctl epmd"

die() {
	echo "$0: $*" >&2
	exit 1
}

mirror() {
	uri=$(apt-get indextargets --format '$(REPO_URI)' 'Label: Debian' 2>/dev/null | head -n 1)
	echo "${uri:-http://deb.debian.org/debian}"
}

fetch() {
	command -v debootstrap >/dev/null || apt-get install --yes --no-install-recommends debootstrap >&2
	new=$root.$$
	trap 'rm -rf "$new"' EXIT
	trap 'exit 1' INT TERM
	mkdir -p "$home"
	debootstrap --variant=minbase --include=rabbitmq-server trixie "$new" "$(mirror)" >&2
	rm -rf "$new"/var/cache/apt/archives/*.deb
	mv -T "$new" "$root" || [ -d "$root" ] # somebody was faster
}

wrap() {
	mkdir -p "$bin"
	for name in $programs; do
		path=/usr/lib/rabbitmq/bin/$name
		[ -e "$root$path" ] || path=/usr/bin/$name
		cat >"$bin/.$name.$$" <<END
#!/bin/sh
exec unshare --mount sh -c 'mount --bind "\$0/etc" /etc && mount --bind "\$0/usr" /usr && exec "\$@"' '$root' '$path' "\$@"
END
		chmod +x "$bin/.$name.$$"
		mv "$bin/.$name.$$" "$bin/$name"
	done
}

[ "$(id -u)" = 0 ] || die "mounting needs root"
[ -e /etc/debian_version ] && [ -L /lib ] || die "this needs Debian 12, Ubuntu 22.04 or later, whose /lib is in /usr"
[ -d "$root" ] || fetch
wrap
echo "$bin/rabbitmq-server"
