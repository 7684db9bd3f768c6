#!/bin/sh
# Runs when all packages are in. $1 is the root.
set -eu
root=$1

# What the essential packages brought before 01-nodoc was there.
rm -rf "$root"/usr/share/man/* "$root"/usr/share/locale/*
find "$root/usr/share/doc" -mindepth 1 ! -type d ! -name copyright -delete
find "$root/usr/share/doc" -mindepth 1 -type d -empty -delete

# The builder put copies of the host's here; each VM gets its own.
rm -f "$root/etc/hostname" "$root/etc/resolv.conf"

rm "$root/usr/sbin/update-ca-certificates"
chroot "$root" dpkg-divert --quiet --local --rename \
	--remove /usr/sbin/update-ca-certificates
chroot "$root" update-ca-certificates --fresh >/dev/null

# People type vim. The full editor takes the name over when it is installed.
chroot "$root" update-alternatives --quiet \
	--install /usr/bin/vim vim /usr/bin/vim.tiny 10
