package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	sqlite "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	banger "github.com/banger-dev/banger"
)

// VM is the record of one VM.
type VM struct {
	ID, Name string
	State    banger.State
	// Reason says why the state is error, or what ended the last run.
	Reason string
	Image  string
	// ImageDigest is the image's id.
	ImageDigest  string
	Kernel       string
	VCPU         int
	MemoryMiB    int64
	DiskBytes    int64
	OverlayBytes int64
	NAT          bool
	Ephemeral    bool
	// Cold keeps the first run from a template.
	Cold bool
	// WantDriver and WantAccel are what was asked for: empty is the config's.
	WantDriver, WantAccel string
	// Driver, Accel, Confinement, Ready, FailedUnits, Origin, TemplateError and
	// Started belong to the present run.
	Driver, Accel string
	Confinement   []string
	Ready         banger.Grade
	FailedUnits   []string
	// Origin is how the present run began: "boot" or "template"; TemplateError
	// why a template was there and not used.
	Origin, TemplateError string
	Created               time.Time
	Started               time.Time
	// MachineID is 32 hex digits; HostKey an OpenSSH private key, PEM.
	MachineID string
	HostKey   []byte
	// Address is the VM's own on the host's loopback; empty: none. Publish are the
	// ports of the host that lead into it.
	Address string
	Publish []banger.Publish
	// Policy is what it may reach, as internal/policy keeps it, and PolicyRevision
	// how often that was changed.
	Policy         string
	PolicyRevision int64
	// Expires is when it is to be deleted; zero: never by itself.
	Expires time.Time
}

const vmColumns = `id, name, state, reason, image, image_digest, kernel, vcpu,
	memory_mib, disk_bytes, overlay_bytes, nat, ephemeral, want_driver, want_accel,
	driver, accel, confinement, ready, failed_units, created_ms, started_ms,
	machine_id, host_key, cold, origin, template_error, address, publish, policy, policy_revision, expires_ms`

// VMs returns every VM, oldest first.
func (s *Store) VMs(ctx context.Context) ([]VM, error) {
	rows, err := s.db.QueryContext(ctx, "SELECT "+vmColumns+" FROM vms ORDER BY created_ms, id")
	if err != nil {
		return nil, explain(s.path, err)
	}
	defer rows.Close()
	var all []VM
	for rows.Next() {
		vm, err := scanVM(rows)
		if err != nil {
			return nil, explain(s.path, err)
		}
		all = append(all, vm)
	}
	if err := rows.Err(); err != nil {
		return nil, explain(s.path, err)
	}
	return all, nil
}

func scanVM(rows *sql.Rows) (VM, error) {
	var v VM
	var confinement, units, publish string
	var created, started, expires int64
	err := rows.Scan(&v.ID, &v.Name, &v.State, &v.Reason, &v.Image, &v.ImageDigest, &v.Kernel, &v.VCPU,
		&v.MemoryMiB, &v.DiskBytes, &v.OverlayBytes, &v.NAT, &v.Ephemeral, &v.WantDriver, &v.WantAccel,
		&v.Driver, &v.Accel, &confinement, &v.Ready, &units, &created, &started,
		&v.MachineID, &v.HostKey, &v.Cold, &v.Origin, &v.TemplateError, &v.Address, &publish, &v.Policy, &v.PolicyRevision, &expires)
	if err != nil {
		return VM{}, err
	}
	v.Created, v.Started, v.Expires = fromMillis(created), fromMillis(started), fromMillis(expires)
	return v, errors.Join(json.Unmarshal([]byte(confinement), &v.Confinement), json.Unmarshal([]byte(units), &v.FailedUnits),
		json.Unmarshal([]byte(publish), &v.Publish))
}

// PutVM inserts the record or replaces the one with its id. A name that
// another VM has is wrong_state.
func (t *Tx) PutVM(v VM) error {
	confinement, err := json.Marshal(v.Confinement)
	if err != nil {
		return err
	}
	units, err := json.Marshal(v.FailedUnits)
	if err != nil {
		return err
	}
	publish, err := json.Marshal(v.Publish)
	if err != nil {
		return err
	}
	key := v.HostKey
	if key == nil {
		key = []byte{}
	}
	_, err = t.tx.ExecContext(t.ctx, "INSERT INTO vms ("+vmColumns+`) VALUES
		(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)
		ON CONFLICT (id) DO UPDATE SET name=excluded.name, state=excluded.state,
		reason=excluded.reason, image=excluded.image, image_digest=excluded.image_digest,
		kernel=excluded.kernel, vcpu=excluded.vcpu, memory_mib=excluded.memory_mib,
		disk_bytes=excluded.disk_bytes, overlay_bytes=excluded.overlay_bytes, nat=excluded.nat,
		ephemeral=excluded.ephemeral, want_driver=excluded.want_driver, want_accel=excluded.want_accel,
		driver=excluded.driver, accel=excluded.accel, confinement=excluded.confinement,
		ready=excluded.ready, failed_units=excluded.failed_units, created_ms=excluded.created_ms,
		started_ms=excluded.started_ms, machine_id=excluded.machine_id, host_key=excluded.host_key,
		cold=excluded.cold, origin=excluded.origin, template_error=excluded.template_error,
		address=excluded.address, publish=excluded.publish,
		policy=excluded.policy, policy_revision=excluded.policy_revision, expires_ms=excluded.expires_ms`,
		v.ID, v.Name, string(v.State), v.Reason, v.Image, v.ImageDigest, v.Kernel, v.VCPU,
		v.MemoryMiB, v.DiskBytes, v.OverlayBytes, v.NAT, v.Ephemeral, v.WantDriver, v.WantAccel,
		v.Driver, v.Accel, string(confinement), string(v.Ready), string(units), millis(v.Created), millis(v.Started),
		v.MachineID, key, v.Cold, v.Origin, v.TemplateError, v.Address, string(publish), v.Policy, v.PolicyRevision, millis(v.Expires))
	if code, ok := errors.AsType[*sqlite.Error](err); ok && code.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE {
		return banger.Errorf(banger.CodeWrongState, "vm %q already exists", v.Name)
	}
	if err != nil {
		return explain(t.path, err)
	}
	return nil
}

// DeleteVM removes a record; one that is not there is no error.
func (t *Tx) DeleteVM(id string) error { return t.exec("DELETE FROM vms WHERE id = ?", id) }
