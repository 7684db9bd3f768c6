// Package store keeps the daemon's records in SQLite: the VMs and the
// operations that are under way. It is the only place with SQL in it.
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path"
	"sync"
	"time"

	sqlite "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/trace"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Store is the open database. All methods may be called from any goroutine.
type Store struct {
	db *sql.DB
	// lazy commits without waiting for the disk.
	lazy *sql.DB
	path string
	log  *slog.Logger
	// writing is held by the one transaction: SQLite would have others sleep and
	// try again.
	writing sync.Mutex
}

// Open opens the database at path, making or migrating it as needed. A file
// that is not a sound database of ours is left as it is, and the error
// (unavailable) says how to go on.
func Open(path string, log *slog.Logger) (*Store, error) {
	if err := precreate(path); err != nil {
		return nil, banger.Errorf(banger.CodeUnavailable, "store %s cannot be opened: %w", path, err)
	}
	// Every commit is on disk before it returns (synchronous=FULL): an
	// operation that was recorded is still recorded after a power cut.
	db, err := connect(path, "FULL", 2)
	if err != nil {
		return nil, explain(path, err)
	}
	lazy, err := connect(path, "NORMAL", 1)
	if err != nil {
		db.Close()
		return nil, explain(path, err)
	}
	s := &Store{db: db, lazy: lazy, path: path, log: log}
	if err := s.prepare(context.Background()); err != nil {
		s.Close()
		return nil, explain(path, err)
	}
	return s, nil
}

// connect opens the database with commits that are as synchronous as said.
func connect(path, synchronous string, most int) (*sql.DB, error) {
	query := url.Values{"_pragma": {
		"busy_timeout(5000)", "journal_mode(WAL)", "synchronous(" + synchronous + ")",
		"foreign_keys(ON)", "cache_size(-512)", "trusted_schema(OFF)",
	}, "_txlock": {"immediate"}}
	dsn := (&url.URL{Scheme: "file", Path: path, RawQuery: query.Encode()}).String()
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(most)
	db.SetConnMaxIdleTime(0)
	return db, nil
}

// precreate makes the file with a mode of its own: SQLite would use the umask.
func precreate(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// explain turns a database error into one with a next step.
func explain(path string, err error) error {
	if _, ok := errors.AsType[*banger.Error](err); ok {
		return err
	}
	if code, ok := errors.AsType[*sqlite.Error](err); ok {
		switch code.Code() & 0xff {
		case sqlite3.SQLITE_FULL:
			return banger.Errorf(banger.CodeUnavailable, "store %s: no space left on the disk", path).
				WithHint("df -h %s", path)
		case sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT:
			return banger.Errorf(banger.CodeUnavailable, "store %s is damaged: %w", path, err).
				WithHint("mv %[1]s %[1]s.bad (and its -wal and -shm), then any command: VMs are found again by their directories", path)
		}
	}
	return banger.Errorf(banger.CodeUnavailable, "store %s cannot be used: %w", path, err).
		WithHint("banger doctor")
}

// prepare checks the database and brings its schema up to date, each migration
// in a transaction of its own.
func (s *Store) prepare(ctx context.Context) error {
	var verdict string
	if err := s.db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&verdict); err != nil {
		return err
	}
	if verdict != "ok" {
		return banger.Errorf(banger.CodeUnavailable, "store %s is damaged: %s", s.path, verdict).
			WithHint("mv %[1]s %[1]s.bad (and its -wal and -shm), then any command: VMs are found again by their directories", s.path)
	}
	files, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return err
	}
	var version int
	if err := s.db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return err
	}
	if version > len(files) {
		return banger.Errorf(banger.CodeUnavailable, "store %s was written by a newer banger (schema %d, this one knows %d)", s.path, version, len(files)).
			WithHint("use the newer banger, or BANGER_HOME=… for a separate one")
	}
	for i := version; i < len(files); i++ {
		if err := s.migrate(ctx, files[i], i+1); err != nil {
			return fmt.Errorf("migration %s: %w", path.Base(files[i]), err)
		}
		s.log.Info("store migrated", "schema", i+1)
	}
	return nil
}

func (s *Store) migrate(ctx context.Context, file string, version int) error {
	text, err := migrations.ReadFile(file)
	if err != nil {
		return err
	}
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, string(text)); err != nil {
		return err
	}
	// A pragma takes no parameters; version is ours.
	if _, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", version)); err != nil {
		return err
	}
	return tx.Commit()
}

// Close closes the database.
func (s *Store) Close() error { return errors.Join(s.lazy.Close(), s.db.Close()) }

// Update runs f in one transaction; an error from f, or from the commit, means
// that nothing was changed.
func (s *Store) Update(ctx context.Context, f func(*Tx) error) error {
	return s.update(ctx, s.db, "store: commit, with fsync", f)
}

// UpdateLazily is Update for what means nothing after the host has gone down: it
// does not wait for the disk. A power cut may undo it; a crash of ours does not.
func (s *Store) UpdateLazily(ctx context.Context, f func(*Tx) error) error {
	return s.update(ctx, s.lazy, "store: commit", f)
}

func (s *Store) update(ctx context.Context, db *sql.DB, commit string, f func(*Tx) error) error {
	whole := trace.Begin(ctx, "store: transaction")
	defer whole.End()
	s.writing.Lock()
	defer s.writing.Unlock()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return explain(s.path, err)
	}
	defer tx.Rollback()
	if err := f(&Tx{ctx: ctx, tx: tx, path: s.path}); err != nil {
		return err
	}
	if err := trace.Do(ctx, commit, tx.Commit); err != nil {
		return explain(s.path, err)
	}
	return nil
}

// Tx is a transaction. It is valid inside the function given to Update.
type Tx struct {
	ctx  context.Context
	tx   *sql.Tx
	path string
}

func (t *Tx) exec(query string, args ...any) error {
	if _, err := t.tx.ExecContext(t.ctx, query, args...); err != nil {
		return explain(t.path, err)
	}
	return nil
}

func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}
