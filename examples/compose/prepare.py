"""Fill the TiDB of docker-compose.yml: a password for root, a database ``shop`` with an order book, and a bucket ``backups``.

``prepare.py drop`` loses the database instead, so that there is something to bring back. Both may be run again.
"""

import os
import sys
import time
from contextlib import closing

import pymysql
import urllib3

PASSWORD = os.environ["BACKUP_MANAGER_PASSWORD"]
ORDERS = 10_000
BUCKET = "http://s3:8333/backups"


def connect(*, seconds: float = 60) -> pymysql.Connection:
    """Connect as root, setting the password of a fresh server; TiDB takes a few seconds to start."""
    deadline = time.monotonic() + seconds
    while True:
        for password in (PASSWORD, ""):
            try:
                connection = pymysql.connect(host="tidb", port=4000, user="root", password=password, autocommit=True)
            except pymysql.OperationalError as error:
                if time.monotonic() > deadline:
                    raise SystemExit(f"prepare: no answer from TiDB: {error.args[1]}") from error
                continue
            if not password:
                with connection.cursor() as cursor:
                    cursor.execute("ALTER USER 'root'@'%%' IDENTIFIED BY %s", (PASSWORD,))
            return connection
        time.sleep(1)


def fill(connection: pymysql.Connection) -> None:
    """Create ``shop.orders`` and fill it, unless it is there."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE IF NOT EXISTS shop")
        cursor.execute("CREATE TABLE IF NOT EXISTS shop.orders (id BIGINT PRIMARY KEY, customer VARCHAR(64), cents BIGINT)")
        cursor.execute("SELECT COUNT(*) FROM shop.orders")
        (present,) = cursor.fetchone() or (0,)
        if not present:
            rows = [(number, f"customer {number % 97}", number * 31 % 9973) for number in range(ORDERS)]
            cursor.executemany("INSERT INTO shop.orders VALUES (%s, %s, %s)", rows)
        cursor.execute("SELECT COUNT(*), SUM(cents) FROM shop.orders")
        count, cents = cursor.fetchone() or (0, 0)
    sys.stdout.write(f"prepare: shop.orders has {count} rows, {cents} cents\n")


def make_bucket(*, seconds: float = 60) -> None:
    """Create the bucket, unless it is there; the server of the compose file takes any key."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            answer = urllib3.request("PUT", BUCKET, retries=False, timeout=5)
        except urllib3.exceptions.HTTPError as error:
            reason = str(error)
        else:
            if answer.status in {200, 409}:
                break
            reason = f"{answer.status} {answer.data[:200].decode(errors='replace')}"
        if time.monotonic() > deadline:
            raise SystemExit(f"prepare: cannot make {BUCKET}: {reason}")
        time.sleep(1)
    sys.stdout.write("prepare: bucket backups is ready\n")


def main(arguments: list[str]) -> None:
    """Fill, or with ``drop`` lose, the database."""
    with closing(connect()) as connection:
        if arguments == ["drop"]:
            with connection.cursor() as cursor:
                cursor.execute("DROP DATABASE IF EXISTS shop")
            sys.stdout.write("prepare: database shop is gone\n")
            return
        fill(connection)
    make_bucket()


if __name__ == "__main__":
    main(sys.argv[1:])
