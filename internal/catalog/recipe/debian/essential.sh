#!/bin/sh
# Runs when the essential packages are in, before the others. $1 is the root.
set -eu
root=$1

# The certificate bundle is made once, at the end (customize.sh), and not again
# by each package that asks for it.
chroot "$root" dpkg-divert --quiet --local --rename \
	--add /usr/sbin/update-ca-certificates
ln -s /bin/true "$root/usr/sbin/update-ca-certificates"
