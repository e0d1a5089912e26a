//! Packages of Debian forky, unpacked beside the host's own: with apt's checks of signatures and sums, but without
//! touching the host's package state.

/// The beginning of a script that is called with a place, a suite and a mirror: from here on `apt-get download` and
/// `apt-cache` know that suite alone.
pub(super) const APT: &str = r#"
set -eu
place=$1 suite=$2 mirror=$3
mkdir -p "$place/apt/lists/partial" "$place/apt/cache/archives/partial" "$place/apt/etc" "$place/debs"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" > "$place/apt/etc/sources.list"
: > "$place/apt/status"
cat > "$place/apt/apt.conf" <<EOF
Dir::State "$place/apt"; Dir::State::status "$place/apt/status"; Dir::State::lists "$place/apt/lists";
Dir::Cache "$place/apt/cache"; Dir::Etc::sourcelist "$place/apt/etc/sources.list"; Dir::Etc::sourceparts "-";
APT::Sandbox::User "root"; Acquire::Languages "none"; Acquire::Check-Valid-Until "false";
EOF
export APT_CONFIG="$place/apt/apt.conf"
apt-get -q update
"#;
