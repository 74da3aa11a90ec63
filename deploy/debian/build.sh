#!/bin/sh
# Puts a built proxy into a Debian package: build.sh BINARY OUTPUT_DIR
#
# dpkg-deb alone, from files of this repository; what the program links to is asked of it
# (dpkg-shlibdeps). A static binary gives a package that depends on no library. Runs on Debian and
# Ubuntu; the same input gives the same bytes.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
name=memorystore-auth-proxy
binary=$1
output=$2

version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$top/Cargo.toml" | head -n 1)
architecture=$(dpkg --print-architecture)
: "${SOURCE_DATE_EPOCH:=$(git -C "$top" log -1 --format=%ct || stat -c %Y "$top/Cargo.toml")}"
export SOURCE_DATE_EPOCH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
doc=$root/usr/share/doc/$name

put() { install -D -m "$1" "$2" "$3"; }
put 755 "$binary" "$root/usr/bin/$name"
strip --strip-unneeded --remove-section=.comment "$root/usr/bin/$name"
put 644 "$top/deploy/systemd/$name.service" "$root/usr/lib/systemd/system/$name.service"
put 644 "$top/deploy/systemd/$name.sysusers" "$root/usr/lib/sysusers.d/$name.conf"
put 644 "$top/deploy/systemd/$name.default" "$root/etc/default/$name"
put 644 "$top/config/proxy.toml" "$root/etc/$name/proxy.toml"
put 644 "$here/copyright" "$doc/copyright"
for page in README.md SECURITY.md docs/clients.md docs/commands.md docs/correctness.md docs/differences.md; do
  put 644 "$top/$page" "$doc/$page"
done
"$top/deploy/sbom.py" --output "$work/sbom.json"
put 644 "$work/sbom.json" "$doc/sbom.cdx.json"
put 644 "$top/deploy/prometheus/alerts.yaml" "$doc/examples/alerts.yaml"
put 644 "$top/deploy/grafana/dashboard.json" "$doc/examples/dashboard.json"
put 644 "$top/CHANGELOG.md" "$doc/NEWS.md"
{
  printf '%s (%s) unstable; urgency=medium\n\n  * See NEWS.md.\n\n' "$name" "$version"
  printf ' -- %s  %s\n' "$(sed -n 's/^Maintainer: //p' "$here/control.in")" "$(LC_ALL=C date -uRd "@$SOURCE_DATE_EPOCH")"
} >"$doc/changelog"
gzip -9n "$doc/changelog"

manual=$root/usr/share/man/man1/$name.1
put 644 "$here/$name.1" "$manual"
gzip -9n "$manual"

# dpkg-shlibdeps wants to stand beside a debian/control.
mkdir -p "$work/shlibs/debian" "$root/DEBIAN"
printf 'Source: %s\n\nPackage: %s\nArchitecture: any\n' "$name" "$name" >"$work/shlibs/debian/control"
libraries=$(cd "$work/shlibs" && dpkg-shlibdeps -O "$root/usr/bin/$name" | sed -n 's/^shlibs:Depends=//p')
sed -e "s/@VERSION@/$version/" -e "s/@ARCHITECTURE@/$architecture/" \
  -e "s/@SIZE@/$(du -sk --apparent-size "$root" | cut -f1)/" \
  -e "s/@LIBRARIES@/${libraries:+$libraries, }/" "$here/control.in" >"$root/DEBIAN/control"
(cd "$root" && find etc -type f | sort | sed 's|^|/|') >"$root/DEBIAN/conffiles"
(cd "$root" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
for script in postinst prerm postrm; do
  put 755 "$here/$script" "$root/DEBIAN/$script"
done

mkdir -p "$output"
package=$output/${name}_${version}_${architecture}.deb
dpkg-deb --root-owner-group -Z"${COMPRESSION:-xz}" --build "$root" "$package" >/dev/null
echo "$package"
