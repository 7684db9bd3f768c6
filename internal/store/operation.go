package store

import (
	"context"
	"encoding/json"
	"time"
)

// Kind is what an operation does to a VM.
type Kind string

// The kinds of operations.
const (
	KindCreate Kind = "create"
	KindStart  Kind = "start"
	KindStop   Kind = "stop"
	KindKill   Kind = "kill"
	KindSet    Kind = "set"
	KindPause  Kind = "pause"
	KindResume Kind = "resume"
	KindDelete Kind = "delete"
)

// Operation is a change of a VM that is under way. A daemon that finds one at
// its start was killed in the middle of it.
type Operation struct {
	ID   int64
	VMID string
	Kind Kind
	// Step is the step that was about to be done when it was recorded.
	Step    string
	Detail  json.RawMessage
	Started time.Time
}

// Operations returns the operations under way, oldest first.
func (s *Store) Operations(ctx context.Context) ([]Operation, error) {
	rows, err := s.db.QueryContext(ctx, "SELECT id, vm_id, kind, step, detail, started_ms FROM operations ORDER BY id")
	if err != nil {
		return nil, explain(s.path, err)
	}
	defer rows.Close()
	var all []Operation
	for rows.Next() {
		var op Operation
		var detail string
		var started int64
		if err := rows.Scan(&op.ID, &op.VMID, &op.Kind, &op.Step, &detail, &started); err != nil {
			return nil, explain(s.path, err)
		}
		op.Detail, op.Started = json.RawMessage(detail), fromMillis(started)
		all = append(all, op)
	}
	if err := rows.Err(); err != nil {
		return nil, explain(s.path, err)
	}
	return all, nil
}

// Begin records op and sets its ID. An operation on the same VM that was never
// ended (its undo failed) is replaced: the new one takes its place.
func (t *Tx) Begin(op *Operation) error {
	if op.Detail == nil {
		op.Detail = json.RawMessage("{}")
	}
	row := t.tx.QueryRowContext(t.ctx,
		`INSERT INTO operations (vm_id, kind, step, detail, started_ms) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (vm_id) DO UPDATE SET kind=excluded.kind, step=excluded.step,
		detail=excluded.detail, started_ms=excluded.started_ms RETURNING id`,
		op.VMID, string(op.Kind), op.Step, string(op.Detail), millis(op.Started))
	if err := row.Scan(&op.ID); err != nil {
		return explain(t.path, err)
	}
	return nil
}

// Step records that op is about to do its present step.
func (t *Tx) Step(op Operation) error {
	return t.exec("UPDATE operations SET step = ?, detail = ? WHERE id = ?", op.Step, string(op.Detail), op.ID)
}

// End removes a finished or undone operation.
func (t *Tx) End(op Operation) error { return t.exec("DELETE FROM operations WHERE id = ?", op.ID) }

// Forget removes a VM's record with its operation, if it has one.
func (t *Tx) Forget(vmID string) error {
	if err := t.exec("DELETE FROM operations WHERE vm_id = ?", vmID); err != nil {
		return err
	}
	return t.DeleteVM(vmID)
}
