create table if not exists documents (id integer primary key, body text not null, made datetime not null);
