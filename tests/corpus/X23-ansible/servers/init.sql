CREATE TABLE IF NOT EXISTS owners (id int AUTO_INCREMENT PRIMARY KEY, name varchar(80) NOT NULL);
INSERT INTO owners (name) VALUES ('admin');
