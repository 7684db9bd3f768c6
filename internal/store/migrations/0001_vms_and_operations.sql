CREATE TABLE vms (
	id TEXT PRIMARY KEY,
	name TEXT NOT NULL UNIQUE,
	state TEXT NOT NULL,
	reason TEXT NOT NULL,
	image TEXT NOT NULL,
	image_digest TEXT NOT NULL,
	kernel TEXT NOT NULL,
	vcpu INTEGER NOT NULL,
	memory_mib INTEGER NOT NULL,
	disk_bytes INTEGER NOT NULL,
	overlay_bytes INTEGER NOT NULL,
	nat INTEGER NOT NULL,
	ephemeral INTEGER NOT NULL,
	-- What was asked for: "", "auto", "qemu"; "", "auto", "kvm", "tcg".
	want_driver TEXT NOT NULL,
	want_accel TEXT NOT NULL,
	-- What runs it in this run.
	driver TEXT NOT NULL,
	accel TEXT NOT NULL,
	confinement TEXT NOT NULL,
	ready TEXT NOT NULL,
	failed_units TEXT NOT NULL,
	-- Unix milliseconds; started_ms is 0 when it does not run.
	created_ms INTEGER NOT NULL,
	started_ms INTEGER NOT NULL,
	-- Who the guest is.
	machine_id TEXT NOT NULL,
	host_key BLOB NOT NULL
) STRICT;

CREATE TABLE operations (
	id INTEGER PRIMARY KEY,
	-- One operation at a time per VM.
	vm_id TEXT NOT NULL UNIQUE,
	kind TEXT NOT NULL,
	step TEXT NOT NULL,
	detail TEXT NOT NULL,
	started_ms INTEGER NOT NULL
) STRICT;
